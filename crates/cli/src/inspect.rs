//! `inspect`: a model as text.

use onnx_qat::{Error, Model};
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The model.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Print counts of operators instead of the graph.
    #[arg(long)]
    summary: bool,
}

pub fn run(args: &Args) -> Result<(), Error> {
    let model = Model::load(&args.model)?;
    let mut text = String::new();
    if !args.summary {
        text = model.text();
    }
    let signature = model.signature();
    let (producer, version) = model.meta.producer();
    let mut note = |what: &str, value: String| text += &format!("# {what}: {value}\n");
    note("producer", format!("{producer} {version}").trim().to_string());
    note("opset", format!("{}, IR version {}", model.meta.opset(), model.meta.ir_version()));
    let counts = model.operator_counts();
    note("operators", counts.iter().map(|(op, n)| format!("{op} {n}")).collect::<Vec<_>>().join(", "));
    note("data inputs", signature.data.join(", "));
    for form in &model.forms {
        note("form", form.to_string());
    }
    if let Some(scores) = &signature.scores {
        note("class scores", scores.clone());
    }
    for n in model.meta.notes() {
        note("note", n.clone());
    }
    // A closed pipe (`| head`) is the reader's choice, not an error.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}
