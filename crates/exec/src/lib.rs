//! Runs a graph: lowers each node to a step, plans the memory, and runs the flat list of steps.
//!
//! No operator is named here. A [`Program`] is the compiled form of one graph for one set of shapes; a [`Machine`]
//! is a program with its memory. Nothing is allocated inside a run, except by operations whose shapes only the data decide:
//! they stand behind the steps and are bound as they run.

mod layout;
mod machine;
mod memory;
mod program;
mod tail;

pub use machine::{Machine, Measured, Profile};
pub use program::{Error, Program};
