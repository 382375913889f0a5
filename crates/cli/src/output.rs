//! What the commands print: a progress bar on a terminal, plain lines otherwise, JSON lines for machines.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use onnx_qat::Error;
use onnx_qat::report::percent;
use onnx_qat::train::{Accuracy, Quality};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// How much to print, and for whom.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Output options")]
pub struct Output {
    /// Print errors only.
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Print one JSON object per line instead of text.
    #[arg(long)]
    json: bool,
    /// Print every decision of every pass.
    #[arg(long, short)]
    pub verbose: bool,
}

impl Output {
    pub fn printer(&self) -> Printer {
        Printer { quiet: self.quiet, json: self.json, bar: None, last: None }
    }
}

/// Writes a text file, whole or not at all.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    Ok(onnx_qat::onnx::write_file(path, text.as_bytes())?)
}

/// The last part of a path, for headings.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Prints progress and results.
pub struct Printer {
    quiet: bool,
    json: bool,
    bar: Option<(String, ProgressBar)>,
    last: Option<Instant>,
}

/// Lines of progress without a terminal come at most this often.
const INTERVAL: Duration = Duration::from_secs(5);

impl Printer {
    /// A line of text for a reader.
    pub fn line(&mut self, text: &str) {
        if self.quiet || self.json {
            return;
        }
        let print = || {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        };
        match &self.bar {
            Some((_, bar)) => bar.suspend(print),
            None => print(),
        }
    }

    /// Whether progress is shown by a bar, so that lines about it are not needed.
    pub fn has_bar(&self) -> bool {
        std::io::stderr().is_terminal()
    }

    /// An object for a machine.
    pub fn object(&mut self, value: Value) {
        if self.json {
            let _ = writeln!(std::io::stdout().lock(), "{value}");
        }
    }

    /// Whether nobody looks at progress.
    pub fn silent(&self) -> bool {
        self.quiet || self.json
    }

    /// Moves a progress bar; without a terminal, says where it is now and then.
    pub fn bar(&mut self, what: &str, at: usize, of: usize, unit: &str) {
        self.bar_with(what, at, of, unit, "");
    }

    /// As [`Printer::bar`], with a message behind it.
    pub fn bar_with(&mut self, what: &str, at: usize, of: usize, unit: &str, message: &str) {
        if self.silent() {
            return;
        }
        if !self.has_bar() {
            if self.last.is_some_and(|t| t.elapsed() < INTERVAL) || at == of {
                return;
            }
            let first = self.last.replace(Instant::now()).is_none();
            if !first {
                self.line(format!("{what}: {at} of {of} {unit} {message}").trim_end());
            }
            return;
        }
        if self.bar.as_ref().is_none_or(|(w, _)| w != what) {
            self.done();
            let bar = ProgressBar::with_draw_target(Some(of as u64), ProgressDrawTarget::stderr());
            let style =
                format!("{{prefix}} [{{bar:30}}] {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left {{msg}}");
            if let Ok(style) = ProgressStyle::with_template(&style) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(what.to_string());
            self.bar = Some((what.to_string(), bar));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_message(message.to_string());
            bar.set_position(at as u64);
        }
    }

    /// Removes the progress bar.
    pub fn done(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.last = None;
    }

    /// The accuracy of one model.
    pub fn accuracy(&mut self, name: &str, a: Accuracy) {
        let (top1, top5) = (percent(a.top1()), percent(a.top5()));
        self.line(&format!("{name}: top-1 {top1}, top-5 {top5}, {} samples", a.samples));
        self.object(json!({"event": "evaluated", "model": name, "accuracy": accuracy_json(a)}));
    }
}

/// A signal-to-noise ratio.
pub fn decibel(x: f64) -> String {
    if x.is_finite() { format!("{x:.1} dB") } else { "exact".into() }
}

/// Accuracy for machines: shares from 0 to 1.
pub fn accuracy_json(a: Accuracy) -> Value {
    json!({"top1": a.top1(), "top5": a.top5(), "samples": a.samples})
}

/// Quality for machines: accuracy, or the signal-to-quantization-noise ratio in dB.
pub fn quality_json(quality: &Quality) -> Value {
    match quality {
        Quality::Accuracy(a) => accuracy_json(*a),
        Quality::Fidelity(f) => json!({"sqnr_db": f.sqnr(), "samples": f.samples}),
    }
}
