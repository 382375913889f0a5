//! A program with its memory.

use crate::memory::{Buffer, Line};
use crate::program::{Error, Instr, Place, Port, Program, allocate};
use ir::Io;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tensor::{DType, Element, Tensor, TensorError};

/// One step of a profiled program.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Operator.
    pub op: String,
    /// Operator and node.
    pub label: String,
    /// Time of all runs together.
    pub time: Duration,
    /// Multiplications and additions of one run ([`ir::Op::flops`]), 0 where none are counted.
    pub flops: u64,
    /// Sizes of all operands and results: what one run moves at least, unless it stays in a cache.
    pub bytes: u64,
}

/// Time per step of profiled runs.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// In program order, without those that do no work.
    pub steps: Vec<Measured>,
}

/// Runs a [`Program`]. Variables keep their values from one run to the next.
pub struct Machine {
    program: Arc<Program>,
    buffers: Vec<Buffer>,
    workspace: Vec<Line>,
    /// Results of the last run whose shapes the data decided.
    late: Vec<Option<Tensor>>,
    profile: Option<Profile>,
}

impl Machine {
    /// Allocates everything that the program will ever need.
    pub fn new(program: Arc<Program>) -> Machine {
        let buffers = allocate(&program);
        let mut workspace = Buffer::new(program.workspace);
        Machine { buffers, workspace: workspace.take(), program, late: vec![], profile: None }
    }

    /// The program that runs here.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Begins to measure the time of each step.
    pub fn start_profile(&mut self) {
        let measured = |i: &Instr| Measured {
            op: i.op.clone(),
            label: i.label.clone(),
            time: Duration::ZERO,
            flops: i.flops,
            bytes: i.ins.iter().flatten().chain(&i.outs).map(|p| p.bytes as u64).sum(),
        };
        let late = |(op, label): (&str, &str)| Measured {
            op: op.to_string(),
            label: label.to_string(),
            time: Duration::ZERO,
            flops: 0,
            bytes: 0,
        };
        let steps = self.program.instrs.iter().filter(|i| !i.step.view).map(measured);
        let steps = steps.chain(self.program.tail.labels().map(late)).collect();
        self.profile = Some(Profile { steps });
    }

    /// What was measured since [`Machine::start_profile`].
    pub fn take_profile(&mut self) -> Option<Profile> {
        self.profile.take()
    }

    /// Runs all steps, on the current rayon thread pool.
    ///
    /// # Errors
    /// When a step finds something wrong with the data: names the node.
    pub fn run(&mut self) -> Result<(), Error> {
        let program = Arc::clone(&self.program);
        for (index, instr) in program.instrs.iter().filter(|i| !i.step.view).enumerate() {
            let start = self.profile.is_some().then(Instant::now);
            let mut taken: SmallVec<[Vec<Line>; 4]> =
                instr.outs.iter().map(|p| self.buffers[p.buffer].take()).collect();
            let ins = instr
                .ins
                .iter()
                .zip(&instr.shared)
                .map(|(p, shared)| match (p, shared) {
                    (Some(p), None) => Some(&self.buffers[p.buffer].bytes()[..p.bytes]),
                    _ => None,
                })
                .collect();
            let outs = taken
                .iter_mut()
                .zip(&instr.outs)
                .map(|(lines, p)| &mut bytemuck::cast_slice_mut::<Line, u8>(lines)[..p.bytes])
                .collect();
            let workspace =
                &mut bytemuck::cast_slice_mut::<Line, u8>(&mut self.workspace)[..instr.step.workspace];
            let result = (instr.step.run)(&mut Io::new(ins, outs, workspace, instr.shared.clone()));
            for (lines, p) in taken.into_iter().zip(&instr.outs) {
                self.buffers[p.buffer] = Buffer::Owned(lines);
            }
            result.map_err(|what| Error::Node { node: instr.label.clone(), what })?;
            if let (Some(profile), Some(start)) = (&mut self.profile, start) {
                profile.steps[index].time += start.elapsed();
            }
        }
        if !program.tail.is_empty() {
            self.run_tail(&program)?;
        }
        for &(from, to) in &program.copies {
            let mut target = self.buffers[to.buffer].take();
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut target);
            bytes[..to.bytes].copy_from_slice(&self.buffers[from.buffer].bytes()[..from.bytes]);
            self.buffers[to.buffer] = Buffer::Owned(target);
        }
        for &(ref variable, value) in &program.tail.updates {
            let port = Self::port("variable", &program.variables, variable)?;
            if let Some(next) = &self.late[value] {
                Self::write(&mut self.buffers, port, next)?;
            }
        }
        Ok(())
    }

    fn run_tail(&mut self, program: &Program) -> Result<(), Error> {
        let mut profile = self.profile.take();
        let behind = program.instrs.iter().filter(|i| !i.step.view).count();
        let mut start = Instant::now();
        let ran = |i: usize| {
            if let Some(profile) = &mut profile {
                profile.steps[behind + i].time += start.elapsed();
                start = Instant::now();
            }
        };
        let values = program.tail.run(|port| self.read(port), ran);
        self.profile = profile;
        self.late = values?;
        Ok(())
    }

    fn port<'p>(kind: &'static str, ports: &'p [Port], name: &str) -> Result<&'p Port, Error> {
        ports.iter().find(|p| p.name == name).ok_or_else(|| {
            let known: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
            Error::NoSuchName { kind, name: name.to_string(), known: known.join(", ") }
        })
    }

    fn read(&self, port: &Port) -> Tensor {
        let bytes = bytes_of(&self.buffers, port.place);
        // The size is right by construction.
        Tensor::from_bytes(port.dtype, &port.shape, bytes::Bytes::copy_from_slice(bytes))
            .unwrap_or_else(|_| Tensor::zeros(port.dtype, &port.shape))
    }

    fn write(buffers: &mut [Buffer], port: &Port, value: &Tensor) -> Result<(), Error> {
        if value.dtype() != port.dtype || value.shape() != port.shape {
            return Err(Error::Mismatch {
                name: port.name.clone(),
                expected: format!("{} {:?}", port.dtype, port.shape),
                found: format!("{} {:?}", value.dtype(), value.shape()),
            });
        }
        buffers[port.place.buffer].bytes_mut()[..port.place.bytes].copy_from_slice(value.bytes());
        Ok(())
    }

    /// The memory of an input, to be filled before a run.
    ///
    /// # Errors
    /// When there is no such input or it holds another element type.
    pub fn input_mut<T: Element>(&mut self, name: &str) -> Result<&mut [T], Error> {
        let port = Self::port("input", &self.program.inputs, name)?;
        if port.dtype != T::DTYPE {
            let (expected, found) = (port.dtype.to_string(), T::DTYPE.to_string());
            return Err(Error::Mismatch { name: name.to_string(), expected, found });
        }
        let Place { buffer, bytes } = port.place;
        Ok(bytemuck::cast_slice_mut(&mut self.buffers[buffer].bytes_mut()[..bytes]))
    }

    /// Sets an input.
    ///
    /// # Errors
    /// When there is no such input or the tensor is of another type.
    pub fn set_input(&mut self, name: &str, value: &Tensor) -> Result<(), Error> {
        let port = Self::port("input", &self.program.inputs, name)?;
        Self::write(&mut self.buffers, port, value)
    }

    /// Sets an input of any floating-point type.
    ///
    /// # Errors
    /// When there is no such input, it is of another type, or takes another number of values.
    pub fn set_f32(&mut self, name: &str, values: &[f32]) -> Result<(), Error> {
        self.set_values(name, values, Tensor::from_f32)
    }

    /// Sets an input of any integer type, or of booleans.
    ///
    /// # Errors
    /// As [`Machine::set_f32`], and when the type does not have a value.
    pub fn set_i64(&mut self, name: &str, values: &[i64]) -> Result<(), Error> {
        self.set_values(name, values, Tensor::from_i64)
    }

    /// Sets an input to values, which `convert` brings into its type where they are of another.
    fn set_values<T: Element>(
        &mut self,
        name: &str,
        values: &[T],
        convert: impl Fn(DType, &[usize], &[T]) -> Result<Tensor, TensorError>,
    ) -> Result<(), Error> {
        let Port { dtype, shape, place, .. } = Self::port("input", &self.program.inputs, name)?;
        let mismatch = |found: String| Error::Mismatch {
            name: name.to_string(),
            expected: format!("{dtype} {shape:?}"),
            found,
        };
        if tensor::element_count(shape) != Some(values.len()) {
            return Err(mismatch(format!("{} values", values.len())));
        }
        let to = &mut self.buffers[place.buffer].bytes_mut()[..place.bytes];
        match *dtype == T::DTYPE {
            true => to.copy_from_slice(bytemuck::cast_slice(values)),
            false => {
                let converted = convert(*dtype, shape, values).map_err(|e| mismatch(e.to_string()))?;
                to.copy_from_slice(converted.bytes());
            }
        }
        Ok(())
    }

    /// A copy of an output of the last run.
    ///
    /// # Errors
    /// When there is no such output, or it stands behind an operator that is not known.
    pub fn output(&self, name: &str) -> Result<Tensor, Error> {
        if let Some((_, why)) = self.program.missing.iter().find(|(n, _)| n == name) {
            return Err(why.clone());
        }
        let late = self.program.tail.outputs.iter().find(|(n, _)| n == name);
        if let Some(value) = late.and_then(|&(_, value)| self.late.get(value)?.clone()) {
            return Ok(value);
        }
        Ok(self.read(Self::port("output", &self.program.outputs, name)?))
    }

    /// The value of a variable.
    ///
    /// # Errors
    /// When there is no such variable.
    pub fn variable(&self, name: &str) -> Result<Tensor, Error> {
        Ok(self.read(Self::port("variable", &self.program.variables, name)?))
    }

    /// Names and values of all variables, in birth order.
    pub fn variables(&self) -> Vec<(String, Tensor)> {
        self.program.variables.iter().map(|p| (p.name.clone(), self.read(p))).collect()
    }

    /// Sets a variable.
    ///
    /// # Errors
    /// When there is no such variable or the tensor is of another type.
    pub fn set_variable(&mut self, name: &str, value: &Tensor) -> Result<(), Error> {
        let port = Self::port("variable", &self.program.variables, name)?;
        Self::write(&mut self.buffers, port, value)
    }

    /// Whether the program reads an input of this name.
    pub fn has_input(&self, name: &str) -> bool {
        self.program.inputs.iter().any(|p| p.name == name)
    }
}

fn bytes_of(buffers: &[Buffer], place: Place) -> &[u8] {
    &buffers[place.buffer].bytes()[..place.bytes]
}
