//! The passes that bring a graph from a file into the form from which quantization starts.

use crate::{
    EvalMode, FoldBatchNorm, FoldBias, FoldConstants, FoldPad, FuseHardSwish, FuseMatMulAdd, InlineBranches,
    MeanToPool, OwnStatistics, Pipeline, RemoveIdentity, Report, SoftmaxAxis, SpellOut, UnrollLoops,
    WidenHalves,
};
use ir::{Graph, GraphError};
use std::collections::HashSet;

/// What [`normalize`] may do beyond what always pays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Normalize {
    /// Fold batch norms now. For static calibration; training wants them as they are, and freezing folds them.
    pub fold_batch_norm: bool,
}

impl Normalize {
    /// The passes, in this order:
    ///
    /// 0. `widen-halves`: a model in 16-bit floats computes in 32 bits.
    /// 1. `fold-constants`: shapes, axes and weights that are computed become constants, for which all others look. Before
    ///    `remove-identity`, so that the copies through which exporters share equal initial values become constants of
    ///    their own: training moves them apart. `inline-branches` behind it takes the branches that are decided with that.
    /// 2. `remove-identity`: nothing stands between the operators that are to be matched.
    /// 3. `spell-out`: attention becomes the products that it is made of.
    /// 4. `eval-mode`, `softmax-axis`, `mean-to-pool`, `fold-pad`, `fuse-hard-swish`, `fuse-matmul-add`: one operator in the place of
    ///    others, and old forms in new ones.
    /// 5. `fold-bias`: the bias that exporters write as an addition, so that a batch norm is the next thing behind its
    ///    convolution.
    /// 6. `fold-batch-norm` where asked for, and `fold-bias` again for what was added behind a batch norm; `own-statistics`
    ///    otherwise, for training.
    pub fn pipeline(self) -> Pipeline {
        let pipeline = Pipeline::new()
            .then(WidenHalves)
            .then(FoldConstants)
            .then(InlineBranches)
            .then(RemoveIdentity)
            .then(SpellOut)
            .then(EvalMode)
            .then(SoftmaxAxis)
            .then(MeanToPool)
            .then(FoldPad)
            .then(FuseHardSwish)
            .then(FuseMatMulAdd)
            .then(FoldBias);
        match self.fold_batch_norm {
            true => pipeline.then(FoldBatchNorm).then(FoldBias),
            false => pipeline.then(OwnStatistics),
        }
    }
}

/// Brings a graph into the form that has gradients: loops of a known, small number of rounds become the rounds themselves.
/// For training, before [`normalize`].
///
/// # Errors
/// As [`normalize`].
pub fn unroll(graph: &mut Graph) -> Result<Report, GraphError> {
    Pipeline::new().then(FoldConstants).then(InlineBranches).then(UnrollLoops).run(graph)
}

/// Brings a graph into the form from which quantization starts: see [`Normalize::pipeline`]. Results stay the same.
///
/// # Errors
/// When operands do not fit their operators: names the node.
pub fn normalize(graph: &mut Graph, options: Normalize) -> Result<Report, GraphError> {
    let mut report = options.pipeline().run(graph)?;
    // A pass that runs twice tells twice what it left.
    let mut told = HashSet::new();
    report.lines.retain(|line| told.insert(line.clone()));
    Ok(report)
}
