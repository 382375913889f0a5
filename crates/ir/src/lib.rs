//! The intermediate representation: one graph form carries a model from the file to the emitted int8 file.
//!
//! A [`Graph`] holds [`Node`]s with ordered operands and typed, named results. Operators implement [`Op`], the one
//! contract that shape inference, autodiff, the executor and the quantization passes speak. No operator is named here.

mod autodiff;
mod compose;
mod eval;
mod graph;
mod lower;
mod op;
mod subgraph;
pub mod text;
mod types;
mod widen;

pub use autodiff::{StandIns, Vjp, gradients, gradients_with};
pub use compose::{Compose, eval_composed, spell_out};
pub use eval::{Budget, EvalError, Evaluate, eval, eval_within};
pub use graph::{Graph, GraphError, Kind, Node, NodeId, Output, Role, Update, Value, ValueId};
pub use lower::{Io, Layout, Layouts, Lower, Operand, Pair, Parts, Run, Step};
pub use op::{Arg, Attr, Attrs, Infer, OnnxForm, Op, Opaque, Parse, Parsed, QuantRole, Registry};
pub use subgraph::Subgraph;
pub use types::{Dim, Type};
pub use widen::lower;
