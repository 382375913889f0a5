//! Drawn operands and gradient checks, shared by the tests of all operators.
//!
//! [`run`] evaluates one operation in every way in which the executor may run it: row-major, channels-last where the
//! operator allows both, and with results written over operands; all must give the same bits. [`Check`] holds the gradients
//! that an operator emits against differences of a random projection of its results.

use ir::{
    Arg, Graph, Infer, Io, Kind, Layout, Layouts, Lower, Node, Op, Operand, Parse, Registry, Role, Type,
    ValueId, Vjp,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tensor::{DType, Tensor};

/// A source of drawn numbers: a 64-bit linear congruential generator, a function of its seed alone; choices may be given.
pub(crate) struct Draw {
    state: u64,
    choices: std::vec::IntoIter<u16>,
}

impl Draw {
    pub fn new(seed: u64) -> Draw {
        Draw::chosen(seed, Vec::new())
    }

    /// The first integers are drawn by these choices, from the smallest for 0 to the largest: what shrinks a choice makes
    /// the case simpler. Elements of tensors come from the seed.
    pub fn chosen(seed: u64, choices: Vec<u16>) -> Draw {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
        Draw { state, choices: choices.into_iter() }
    }

    fn bits(&mut self) -> u32 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as u32
    }

    /// An integer in `from..to`.
    pub fn int(&mut self, from: usize, to: usize) -> usize {
        from + match self.choices.next() {
            Some(choice) => (choice as usize * (to - from)) >> 16,
            None => self.bits() as usize % (to - from),
        }
    }

    /// True once in `n` times, and not for the simplest choice.
    pub fn chance(&mut self, n: usize) -> bool {
        self.int(0, n) == n - 1
    }

    /// One of the items.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.int(0, items.len())]
    }

    /// A number in `lo..hi`.
    pub fn float(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * (self.bits() >> 7) as f32 / (1 << 24) as f32
    }

    /// `rank` sizes in `1..=max`.
    pub fn shape(&mut self, rank: usize, max: usize) -> Vec<usize> {
        (0..rank).map(|_| self.int(1, max + 1)).collect()
    }

    /// Up to `to` sizes, at least `from`, that make at most 243 elements.
    pub fn dims(&mut self, from: usize, to: usize) -> Vec<usize> {
        let rank = self.int(from, to + 1);
        self.shape(rank, [6, 6, 6, 5, 3, 3][rank])
    }

    /// A float tensor of some of the values.
    pub fn among(&mut self, shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::new(
            shape,
            (0..shape.iter().product()).map(|_| values[self.bits() as usize % values.len()]).collect(),
        )
    }

    /// A float tensor with elements in `lo..hi`.
    pub fn tensor(&mut self, shape: &[usize], lo: f32, hi: f32) -> Tensor {
        Tensor::new(shape, (0..shape.iter().product()).map(|_| self.float(lo, hi)).collect())
    }

    /// A float tensor with elements in `lo..hi` that stay `margin` away from each of `kinks`, where differences mean
    /// nothing.
    pub fn tensor_off(&mut self, shape: &[usize], lo: f32, hi: f32, kinks: &[f32], margin: f32) -> Tensor {
        let near = |x: f32| kinks.iter().any(|k| (x - k).abs() < margin);
        let mut one = || loop {
            let x = self.float(lo, hi);
            if !near(x) {
                return x;
            }
        };
        Tensor::new(shape, (0..shape.iter().product()).map(|_| one()).collect())
    }

    /// A float tensor of distinct elements, at least `1.5 / 8` apart, in random order: for maxima.
    pub fn distinct(&mut self, shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        let mut values: Vec<f32> = (0..n).map(|i| (i as f32 - n as f32 / 2.0) * 0.1875).collect();
        for i in (1..n).rev() {
            values.swap(i, self.bits() as usize % (i + 1));
        }
        Tensor::new(shape, values)
    }

    /// A shape that broadcasts to `full`: some sizes made 1, some leading ones left out.
    pub fn broadcast_operand(&mut self, full: &[usize]) -> Vec<usize> {
        let skip = if self.int(0, 2) == 0 { 0 } else { self.int(0, full.len() + 1) };
        full[skip..].iter().map(|&d| if self.int(0, 3) == 0 { 1 } else { d }).collect()
    }
}

/// Reorders elements between `(N, C, spatial...)` and channels-last.
fn relayout(src: &[u8], shape: &[usize], width: usize, to_last: bool) -> Vec<u8> {
    let (n, c, inner) = (shape[0], shape[1], shape[2..].iter().product::<usize>());
    let mut dst = vec![0; src.len()];
    for b in 0..n {
        for (ch, i) in (0..c).flat_map(|ch| (0..inner).map(move |i| (ch, i))) {
            let (plain, last) = ((b * c + ch) * inner + i, (b * inner + i) * c + ch);
            let (from, to) = if to_last { (plain, last) } else { (last, plain) };
            dst[to * width..][..width].copy_from_slice(&src[from * width..][..width]);
        }
    }
    dst
}

fn aligned(bytes: &[u8]) -> Vec<u64> {
    let mut copy = vec![0u64; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut::<u64, u8>(&mut copy)[..bytes.len()].copy_from_slice(bytes);
    copy
}

/// Operands and results of the operation, with channels-last where the mask says so.
fn lower(op: &dyn Op, ins: &[Option<&Tensor>], outs: usize, last: (u32, u32)) -> Result<Lower, String> {
    let types: Vec<Option<Type>> =
        ins.iter().map(|t| t.map(|t| Type::new(t.dtype(), t.shape().iter().copied()))).collect();
    let args: Vec<Option<Arg>> =
        types.iter().zip(ins).map(|(ty, &value)| ty.as_ref().map(|ty| Arg { ty, value })).collect();
    let operand = |ty: &Type, value: Option<&Tensor>, mask: u32, i: usize| {
        let (Some(dtype), Some(shape)) = (ty.dtype, ty.dims()) else {
            return Err(format!("the result type {ty} is not fully known"));
        };
        let on = Layouts::names(mask, i) && shape.len() >= 3;
        let layout = if on { Layout::ChannelsLast } else { Layout::Plain };
        Ok(Operand { dtype, shape, layout, value: value.filter(|_| !on).cloned() })
    };
    let results = op.infer(&Infer::new(&args, outs))?;
    Ok(Lower {
        ins: types
            .iter()
            .zip(ins)
            .enumerate()
            .map(|(i, (ty, v))| ty.as_ref().map(|ty| operand(ty, *v, last.0, i)).transpose())
            .collect::<Result<_, _>>()?,
        outs: results
            .iter()
            .take(outs)
            .enumerate()
            .map(|(i, ty)| operand(ty, None, last.1, i))
            .collect::<Result<_, _>>()?,
    })
}

fn execute(
    op: &dyn Op,
    ins: &[Option<&Tensor>],
    outs: usize,
    last: (u32, u32),
    share: Option<(usize, usize)>,
) -> Result<Vec<Tensor>, String> {
    let cx = lower(op, ins, outs, last)?;
    let step = op.lower(&cx)?;
    let in_memory = |o: &Operand, bytes: &[u8], to_last: bool| match o.layout {
        Layout::Plain => bytes.to_vec(),
        Layout::ChannelsLast => relayout(bytes, &o.shape, o.dtype.bytes(1), to_last),
    };
    let operands: Vec<Option<(usize, Vec<u64>)>> = ins
        .iter()
        .zip(&cx.ins)
        .map(|(t, o)| {
            t.zip(o.as_ref()).map(|(t, o)| (t.bytes().len(), aligned(&in_memory(o, t.bytes(), true))))
        })
        .collect();
    let size = |o: &Operand| o.dtype.bytes(o.len());
    // Results and scratch memory hold garbage at first, as in the executor.
    let mut results: Vec<Vec<u64>> =
        cx.outs.iter().map(|o| vec![0x7fc1_2345_7fc1_2345; size(o).div_ceil(8)]).collect();
    if let Some((i, o)) = share {
        results[o] = operands[i].clone().ok_or("the shared operand is missing")?.1;
    }
    if step.view {
        results[0] = operands[0].clone().ok_or("the viewed operand is missing")?.1;
    } else {
        let mut workspace = vec![0x7fc1_2345_7fc1_2345u64; step.workspace.div_ceil(8)];
        let shared = (0..ins.len()).map(|i| share.filter(|s| s.0 == i).map(|s| s.1)).collect();
        let given = operands
            .iter()
            .enumerate()
            .map(|(i, o)| {
                let o = o.as_ref().filter(|_| share.is_none_or(|s| s.0 != i));
                o.map(|(len, words)| &bytemuck::cast_slice::<u64, u8>(words)[..*len])
            })
            .collect();
        let slices = results
            .iter_mut()
            .zip(&cx.outs)
            .map(|(r, o)| &mut bytemuck::cast_slice_mut::<u64, u8>(r)[..size(o)])
            .collect();
        let workspace = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut workspace)[..step.workspace];
        (step.run)(&mut Io::new(given, slices, workspace, shared))?;
    }
    results
        .iter()
        .zip(&cx.outs)
        .map(|(r, o)| {
            let bytes = in_memory(o, &bytemuck::cast_slice::<u64, u8>(r)[..size(o)], false);
            Tensor::from_bytes(o.dtype, &o.shape, bytes.into()).map_err(|e| e.to_string())
        })
        .collect()
}

/// Whether the elements lie in the same order in both layouts.
fn neutral(shape: &[usize]) -> bool {
    shape.len() < 3 || shape[1] == 1 || shape[2..].iter().product::<usize>() == 1
}

/// The masks with which the executor may ask for channels-last, besides the plain layout.
fn channels_last(op: &dyn Op, ins: &[Option<&Tensor>], plain: &[Tensor]) -> Option<(u32, u32)> {
    let shapes: Vec<(usize, &[usize])> =
        ins.iter().enumerate().filter_map(|(i, t)| t.map(|t| (i, t.shape()))).collect();
    let agree = |mask: u32| {
        let taking_part = shapes.iter().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, s)| *s);
        let matter: Vec<&[usize]> =
            taking_part.chain(plain.iter().map(Tensor::shape)).filter(|s| !neutral(s)).collect();
        matter.windows(2).all(|w| w[0] == w[1])
    };
    let rank = plain.iter().map(|t| t.shape().len()).max().unwrap_or(0);
    let broadcasts = shapes.iter().all(|(_, s)| s.len() == rank || s.iter().product::<usize>() == 1);
    match op.layouts() {
        Layouts::Any => (agree(!0) && broadcasts).then_some((!0, !0)),
        Layouts::Same { ins, outs } => agree(ins).then_some((ins, outs)),
        Layouts::Plain | Layouts::ChannelsLast { .. } => None,
    }
}

fn bits(t: &Tensor) -> Vec<u8> {
    t.bytes().to_vec()
}

/// The results of the operation, after checking that every way to run it gives the same bits.
///
/// # Errors
/// A sentence on what is wrong with the operands.
pub(crate) fn run(op: &dyn Op, ins: &[Option<&Tensor>], outs: usize) -> Result<Vec<Tensor>, String> {
    let native = match op.layouts() {
        Layouts::ChannelsLast { ins, outs } => (ins, outs),
        _ => (0, 0),
    };
    lower(op, ins, outs, native)?;
    if let Some(results) = ir::eval_composed(op, ins, outs, &mut ir::Budget::UNLIMITED.clone())? {
        return Ok(results);
    }
    let reference = execute(op, ins, outs, native, None)?;
    let pairs = op.lower(&lower(op, ins, outs, native)?)?.in_place;
    let others = channels_last(op, ins, &reference).into_iter().map(|masks| (masks, None));
    let others = others.chain(pairs.into_iter().map(|pair| (native, Some(pair))));
    for (masks, share) in others {
        let result = execute(op, ins, outs, masks, share)?;
        for (i, (a, b)) in reference.iter().zip(&result).enumerate() {
            assert_eq!(a.shape(), b.shape(), "{op:?}");
            assert!(
                bits(a) == bits(b) || close(a, b, 1e-6),
                "{op:?}: result {i} is {b:?} with layouts {masks:?} and sharing {share:?}, but {a:?} otherwise"
            );
        }
    }
    Ok(reference)
}

/// Equal up to rounding: a sum over another layout adds in another order.
fn close(a: &Tensor, b: &Tensor, tolerance: f64) -> bool {
    let near = |(a, b): (&f64, &f64)| {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * (1.0 + a.abs())
    };
    a.to_f64().iter().zip(&b.to_f64()).all(near)
}

/// [`run`] for an operator of one result whose operands are all given.
pub(crate) fn eval(op: &dyn Op, ins: &[&Tensor]) -> Result<Tensor, String> {
    let ins: Vec<Option<&Tensor>> = ins.iter().copied().map(Some).collect();
    run(op, &ins, 1).map(|mut outs| outs.remove(0))
}

/// `Project(y0, r0, y1, r1, …)`: the sum of all products, the scalar that the gradients are taken of.
#[derive(Debug)]
pub(crate) struct Project;

impl Op for Project {
    fn name(&self) -> &str {
        "Project"
    }

    fn domain(&self) -> &str {
        "test"
    }

    fn infer(&self, _: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![Type::new(DType::F32, [0usize; 0])])
    }

    /// The loss is the root: its gradient is one.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        for i in (0..).step_by(2).take_while(|&i| cx.input(i).is_some()).collect::<Vec<_>>() {
            let r = cx.input(i + 1)?;
            cx.set(i, r);
        }
        Some(())
    }
}

/// Adds gradients of a value that is read several times.
#[derive(Debug)]
pub(crate) struct Plus;

impl Op for Plus {
    fn name(&self) -> &str {
        "Plus"
    }

    fn domain(&self) -> &str {
        "test"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        if !cx.ty(0)?.agrees(cx.ty(1)?) {
            return Err(format!("gradients {} and {} of one value", cx.ty(0)?, cx.ty(1)?));
        }
        Ok(vec![cx.ty(0)?.clone()])
    }

    fn lower(&self, _: &Lower) -> Result<ir::Step, String> {
        Ok(ir::Step::new(|io: &mut Io| {
            let mut parts = io.split();
            let (a, b) = (parts.input::<f32>(0), parts.input::<f32>(1));
            parts.output::<f32>(0).iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = a + b);
            Ok(())
        }))
    }
}

/// Step of the differences, and how far they may be from the gradient, relative to its largest element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerance {
    pub step: f32,
    pub relative: f64,
}

impl Default for Tolerance {
    fn default() -> Tolerance {
        Tolerance { step: 1e-2, relative: 5e-3 }
    }
}

/// Checks the gradients with respect to the operands `wrt`, all floats, for an operator whose operands are all given.
pub(crate) fn check_gradient(op: impl Op, ins: &[&Tensor], outs: usize, wrt: &[usize]) {
    let ins: Vec<Option<&Tensor>> = ins.iter().copied().map(Some).collect();
    check_gradient_within(Arc::new(op), &ins, outs, wrt, Tolerance::default());
}

/// As [`check_gradient`], with omitted operands and a tolerance. Results that are not floats do not count.
pub(crate) fn check_gradient_within(
    op: Arc<dyn Op>,
    ins: &[Option<&Tensor>],
    outs: usize,
    wrt: &[usize],
    tolerance: Tolerance,
) {
    let check = Check { op, ins, outs, read: (0..outs).collect(), wrt, tolerance, most: usize::MAX };
    match check.run() {
        Ok(Agreement { unclear: 0, .. }) => {}
        Ok(agreement) => panic!("{agreement:?}: differences tell no slope, of {check:?}"),
        Err(e) => panic!("{e}, of {check:?}"),
    }
}

/// The gradients of an operation, to be held against differences.
#[derive(Debug)]
pub(crate) struct Check<'a> {
    pub op: Arc<dyn Op>,
    pub ins: &'a [Option<&'a Tensor>],
    pub outs: usize,
    /// The results that are read. Those that are not floats do not count.
    pub read: Vec<usize>,
    /// The operands whose gradients are checked.
    pub wrt: &'a [usize],
    pub tolerance: Tolerance,
    /// How many elements of each operand are tried at most, evenly over it.
    pub most: usize,
}

/// What a [`Check`] compared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Agreement {
    /// Elements whose gradient is the slope.
    pub agreeing: usize,
    /// Others, near which there is a kink or a jump: differences of two widths tell different slopes.
    pub unclear: usize,
}

impl Check<'_> {
    /// Compares.
    ///
    /// # Errors
    /// A sentence on the first element whose gradient is not the slope.
    #[allow(clippy::unwrap_used)]
    pub fn run(&self) -> Result<Agreement, String> {
        let Check { op, ins, outs, wrt, .. } = self;
        let results = run(&**op, ins, *outs)?;
        let mut draw = Draw::new(results.iter().map(Tensor::len).sum::<usize>() as u64);
        let weight = |(i, y): (usize, &Tensor)| {
            let counts = y.dtype() == DType::F32 && self.read.contains(&i);
            counts.then(|| draw.tensor(y.shape(), -1.0, 1.0))
        };
        let weights: Vec<Option<Tensor>> = results.iter().enumerate().map(weight).collect();

        // The gradients that the operator emits.
        let mut graph = Graph::new("check");
        let values: Vec<Option<ValueId>> = ins
            .iter()
            .enumerate()
            .map(|(i, t)| {
                t.map(|t| match wrt.contains(&i) {
                    true => graph.add_variable("x", t.clone(), Role::Param("test".into())),
                    false => graph.add_const("c", t.clone()),
                })
            })
            .collect();
        let names: Vec<String> = (0..*outs).map(|i| format!("y{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let node = graph.add_node(op.clone(), &values, "y", &names).map_err(|e| e.to_string())?;
        let mut projected = Vec::new();
        for (i, w) in weights.iter().enumerate() {
            if let Some(w) = w {
                let r = graph.add_const("r", w.clone());
                projected.extend([Some(ValueId { node, out: i as u16 }), Some(r)]);
            }
        }
        let loss = graph.add_node(Arc::new(Project), &projected, "loss", &["loss"]).unwrap();
        let wanted: Vec<ValueId> = wrt.iter().map(|&i| values[i].unwrap()).collect();
        let grads =
            ir::gradients(&mut graph, loss.into(), &wanted, Arc::new(Plus)).map_err(|e| e.to_string())?;
        graph.check().map_err(|e| e.to_string())?;
        graph.nodes().into_iter().try_for_each(|id| reads_back(graph.node(id)))?;
        let known = evaluate(&graph, loss.into());

        let mut agreement = Agreement::default();
        for (&i, grad) in wrt.iter().zip(grads) {
            let x = ins[i].unwrap();
            let got = match grad {
                Some(g) if known[&g].shape() != x.shape() => {
                    return Err(format!("the gradient of operand {i} has the shape {:?}", known[&g].shape()));
                }
                Some(g) => known[&g].to_f64(),
                None => vec![0.0; x.len()],
            };
            let project = |x: &Tensor| -> f64 {
                let mut ins = ins.to_vec();
                ins[i] = Some(x);
                let outs = ir::eval(&**op, &ins, *outs).unwrap();
                let read = outs.iter().zip(&weights).filter_map(|(y, w)| w.as_ref().map(|w| (y, w)));
                let terms = read.map(|(y, w)| (y.to_f64(), w.to_f64()));
                terms.map(|(y, w)| y.iter().zip(w).map(|(y, w)| y * w).sum::<f64>()).sum()
            };
            let here = project(x);
            // Slopes over `width` to the left and to the right.
            let slopes = |at: usize, width: f32| {
                [-width, width].map(|by| {
                    let mut values = x.to_f32();
                    let from = values[at];
                    values[at] += by;
                    let moved = f64::from(values[at] - from);
                    (project(&Tensor::new(x.shape(), values)) - here) / moved
                })
            };
            let (step, stride) = (self.tolerance.step, x.len().div_ceil(self.most).max(1));
            let slopes: Vec<(usize, [f64; 2], [f64; 2])> = (i % stride..x.len())
                .step_by(stride)
                .map(|at| (at, slopes(at, step), slopes(at, 0.5 * step)))
                .collect();
            let central = |[left, right]: [f64; 2]| 0.5 * (left + right);
            let scale = slopes.iter().fold(1e-1f64, |m, (.., narrow)| m.max(central(*narrow).abs()));
            let tolerance = self.tolerance.relative * scale;
            for (at, wide, narrow) in slopes {
                // Central differences of two widths cancel the cubic term of the function (Richardson 1911).
                let (got, want) = (got[at], (4.0 * central(narrow) - central(wide)) / 3.0);
                // Of a smooth function, the slopes to both sides approach each other with the width.
                let apart = |[left, right]: [f64; 2]| right - left;
                let kink = (2.0 * apart(narrow) - apart(wide)).abs() > tolerance
                    || (central(wide) - central(narrow)).abs() > tolerance;
                if (got - want).abs() <= tolerance {
                    agreement.agreeing += 1;
                } else if kink {
                    agreement.unclear += 1;
                } else {
                    return Err(format!(
                        "element {at} of the gradient of operand {i} is {got}, but {want} by differences"
                    ));
                }
            }
        }
        Ok(agreement)
    }
}

/// Whether an operator of this crate is what its name and attributes say, which is what graph text holds of it. What is
/// written out may be left out, where it is the default.
fn reads_back(node: &Node) -> Result<(), String> {
    let Some(op) = node.op().filter(|op| op.domain() != "test") else { return Ok(()) };
    let attrs = op.attrs();
    let cx = Parse { attrs: &attrs, opset: 26, ins: node.ins.len(), outs: node.outs.len() };
    let read = crate::Ops.parse(op.domain(), op.name(), &cx).transpose()?;
    let same = read.as_ref().is_some_and(|r| r.op.name() == op.name() && r.op.attrs() == attrs);
    if same { Ok(()) } else { Err(format!("{op:?} with {attrs:?} is read as {read:?}")) }
}

/// All values of a graph without inputs, except the loss.
#[allow(clippy::unwrap_used)]
fn evaluate(graph: &Graph, loss: ValueId) -> BTreeMap<ValueId, Tensor> {
    let mut known: BTreeMap<ValueId, Tensor> = BTreeMap::new();
    for id in graph.order().unwrap() {
        let node = graph.node(id);
        match &node.kind {
            Kind::Op(op) if loss.node != id => {
                let ins: Vec<Option<&Tensor>> = node.ins.iter().map(|v| v.map(|v| &known[&v])).collect();
                let outs =
                    run(&**op, &ins, node.outs.len()).unwrap_or_else(|e| panic!("{}: {e}", node.label()));
                for (i, t) in outs.into_iter().enumerate() {
                    known.insert(ValueId { node: id, out: i as u16 }, t);
                }
            }
            _ => {
                if let Some(t) = graph.tensor(id.into()) {
                    known.insert(id.into(), t.clone());
                }
            }
        }
    }
    known
}
