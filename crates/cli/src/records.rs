//! Records of a run: a page at its end, curves for TensorBoard while it goes on.

use crate::output::write;
use onnx_qat::data::Dataset;
use onnx_qat::pages::{self, Quantization};
use onnx_qat::report::tensorboard::EventWriter;
use onnx_qat::train::{Event, Quality};
use onnx_qat::{Error, History, Model, Quantized, Stage};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to keep of a run.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Output options")]
pub struct RecordArgs {
    /// Write a page about the run: accuracy, size, curves, the loss of every layer, every decision.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Write the curves of training to this folder, as TensorBoard reads them.
    #[arg(long, value_name = "FOLDER")]
    tensorboard: Option<PathBuf>,
    /// Steps from one line about training to the next, where no progress bar is shown.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub log_every: u32,
}

/// Samples on which the layers of both models are compared for the page.
const COMPARED: usize = 128;

/// Keeps what a run tells of itself.
pub struct Recorder {
    report: Option<PathBuf>,
    history: History,
    events: Option<EventWriter>,
    /// Whether the next step is one that was done before: after a step back, or where a run is resumed.
    again: bool,
    /// The first error of writing events. Training goes on without them.
    failed: Option<Error>,
}

/// What a page says beside what was heard.
pub struct Finished<'a> {
    /// The float model, and the files of both.
    pub float: &'a Model,
    pub files: (&'a Path, &'a Path),
    pub sizes: (u64, u64),
    pub quantized: &'a Quantized,
    pub took: Duration,
    /// Data to compare both models on.
    pub data: Option<&'a Dataset>,
}

impl RecordArgs {
    /// Begins to record.
    pub fn recorder(&self) -> Result<Recorder, Error> {
        self.report.iter().try_for_each(onnx_qat::onnx::check_writable)?;
        let create = |folder: &PathBuf| EventWriter::create(folder).map_err(|e| error(folder, e));
        let events = self.tensorboard.as_ref().map(create).transpose()?;
        Ok(Recorder {
            report: self.report.clone(),
            history: History::default(),
            events,
            again: false,
            failed: None,
        })
    }
}

fn error(path: &Path, e: std::io::Error) -> Error {
    Error::File { path: path.display().to_string(), what: e.to_string() }
}

impl Recorder {
    /// Takes note of a stage.
    pub fn hear(&mut self, stage: &Stage) {
        self.history.hear(stage);
        let Stage::Training(event) = stage else { return };
        self.again |= matches!(event, Event::Diverged { .. } | Event::Begin { resumed: Some(_), .. });
        let Some(events) = &mut self.events else { return };
        let step = self.history.steps.last().map_or(0, |s| s.steps as u64);
        let mut restarted = Ok(());
        if self.again && matches!(event, Event::Step { .. }) {
            self.again = false;
            restarted = events.restart(step);
        }
        if let Err(e) = restarted.and_then(|()| log(events, event, step)) {
            self.failed = Some(error(events.path(), e));
            self.events = None;
        }
    }

    /// Writes the page, if one is wanted; its path.
    pub fn finish(self, result: &Finished) -> Result<Option<PathBuf>, Error> {
        if let Some(path) = &self.report {
            let data = result.data.map(|data| {
                let mut some = data.clone();
                some.truncate(COMPARED);
                some
            });
            let compare = |data: &Dataset| {
                onnx_qat::compare(result.float, &result.quantized.model, data, 8, &mut |_, _| {})
            };
            let comparison = data.as_ref().map(compare).transpose()?;
            let name = |path: &Path| crate::output::file_name(path);
            let page = Quantization {
                title: &name(result.files.1),
                source: &format!("made of {}", name(result.files.0)),
                result: result.quantized,
                history: &self.history,
                comparison: comparison.as_ref(),
                sizes: result.sizes,
                took: result.took,
            };
            write(path, &pages::quantization(&page))?;
        }
        self.failed.map_or(Ok(self.report), Err)
    }
}

/// Adds the points of an event to the curves; `step` is how many steps are done.
fn log(events: &mut EventWriter, event: &Event, step: u64) -> std::io::Result<()> {
    match event {
        Event::Step { loss, rates, accuracy, seconds, .. } => {
            events.scalars(step, [("train/loss", *loss), ("train/seconds", *seconds as f32)])?;
            if accuracy.samples > 0 {
                events.scalars(step, [("train/top1", accuracy.top1() as f32)])?;
            }
            rates
                .iter()
                .try_for_each(|(group, rate)| events.scalars(step, [(&*format!("lr/{group}"), *rate)]))
        }
        Event::Epoch { eval, thresholds, .. } => {
            match eval {
                Some(Quality::Accuracy(a)) => {
                    events.scalars(step, [("eval/top1", a.top1() as f32), ("eval/top5", a.top5() as f32)])?;
                }
                Some(Quality::Fidelity(f)) => events.scalars(step, [("eval/sqnr_db", f.sqnr() as f32)])?,
                None => {}
            }
            for (name, value) in thresholds {
                let tag = format!("threshold/{}", name.trim_start_matches('/'));
                events.scalars(step, [(&*tag, *value)])?;
            }
            events.flush()
        }
        _ => Ok(()),
    }
}
