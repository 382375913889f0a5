//! `Einsum` (ONNX 12, 28): sums of products by named axes.

use crate::Reshape;
use crate::reshape::reshape_as;
use crate::shapes::{list, products, stretched};
use ir::{Attr, Attrs, Dim, Infer, Io, Lower, Op, Operand, Parse, Parsed, Step, Type, ValueId, Vjp};
use kernels::select::strides;
use tensor::Tensor;

/// `Einsum(x...)`: by an equation such as `bij,bjk->bik`, the sum over all letters that the result lacks of the products
/// of the operands' elements. `...` stands for axes that all operands with it share. f32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Einsum {
    /// The equation, as written.
    pub equation: String,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Einsum { equation: cx.attrs.str("equation", "")?.to_string() }.into())
}

/// Stands for `...`.
const ELLIPSIS: char = '.';

/// An axis of a term: a letter, or a place of the ellipsis counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Shared(usize),
    Letter(char),
}

/// The labels of each operand and of the result.
#[derive(Debug)]
struct Terms {
    ins: Vec<Vec<Label>>,
    out: Vec<Label>,
}

impl Terms {
    /// The size of an axis of operands of these shapes: 1 where it is that in all of them.
    fn size(&self, shapes: &[&[usize]], label: &Label) -> usize {
        let all = shapes.iter().zip(&self.ins).flat_map(|(shape, term)| shape.iter().zip(term));
        all.filter(|(_, l)| *l == label).map(|(n, _)| *n).find(|&n| n != 1).unwrap_or(1)
    }
}

impl Einsum {
    fn terms(&self, ranks: &[usize]) -> Result<Terms, String> {
        let wrong = |what: &str| format!("equation \"{}\": {what}", self.equation);
        let text: String = self.equation.replace("...", &ELLIPSIS.to_string());
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        let known = |c: char| c.is_ascii_alphabetic() || c == ELLIPSIS;
        let terms: Vec<&str> = left.split(',').collect();
        let mut all = terms.iter().copied().chain(right);
        if all.any(|t| !t.chars().all(known) || t.matches(ELLIPSIS).count() > 1) {
            return Err(wrong("it should be letters, commas, one ellipsis per term, and an arrow"));
        }
        if terms.len() != ranks.len() {
            return Err(wrong(&format!("{} terms for {} operands", terms.len(), ranks.len())));
        }
        let mut widest = 0;
        let mut ins = Vec::new();
        for (term, &rank) in terms.iter().zip(ranks) {
            let letters = term.chars().filter(|&c| c != ELLIPSIS).count();
            let shared = rank.checked_sub(letters).filter(|&n| n == 0 || term.contains(ELLIPSIS));
            let shared =
                shared.ok_or_else(|| wrong(&format!("term {term} for an operand of rank {rank}")))?;
            widest = widest.max(shared);
            ins.push(labels(term, shared));
        }
        let out = match right {
            Some(term) => labels(term, widest),
            // Implicit: the ellipsis, then every letter that occurs once, in order of the alphabet.
            None => {
                let mut once: Vec<char> = left.chars().filter(char::is_ascii_alphabetic).collect();
                once.retain(|c| left.matches(*c).count() == 1);
                once.sort_unstable();
                (0..widest).rev().map(Label::Shared).chain(once.into_iter().map(Label::Letter)).collect()
            }
        };
        let repeated = (1..out.len()).any(|i| out[..i].contains(&out[i]));
        if repeated
            || out
                .iter()
                .any(|l| !ins.iter().any(|t: &Vec<Label>| t.contains(l)) && !matches!(l, Label::Shared(_)))
        {
            return Err(wrong("each letter of the result should occur there once, and in an operand"));
        }
        Ok(Terms { ins, out })
    }
}

fn labels(term: &str, shared: usize) -> Vec<Label> {
    let mut labels = Vec::new();
    for c in term.chars() {
        match c {
            ELLIPSIS => labels.extend((0..shared).rev().map(Label::Shared)),
            c => labels.push(Label::Letter(c)),
        }
    }
    labels
}

/// A letter for each label, with others to spare.
struct Letters {
    known: Vec<(Label, char)>,
    spare: Vec<char>,
}

impl Letters {
    fn new(terms: &Terms) -> Letters {
        let mut letters = Letters { known: Vec::new(), spare: ('a'..='z').chain('A'..='Z').rev().collect() };
        for &label in terms.ins.iter().flatten() {
            if let Label::Letter(c) = label {
                letters.known.push((label, c));
                letters.spare.retain(|&spare| spare != c);
            }
        }
        letters
    }

    /// A letter that stands for nothing yet, while there is one.
    fn fresh(&mut self) -> Option<char> {
        self.spare.pop()
    }

    fn of(&mut self, label: Label) -> Option<char> {
        if let Some((_, letter)) = self.known.iter().find(|(l, _)| *l == label) {
            return Some(*letter);
        }
        let letter = self.fresh()?;
        self.known.push((label, letter));
        Some(letter)
    }
}

impl Einsum {
    /// The axes of the loop, those of the result, then those that are summed over, and their sizes.
    fn axes(&self, operands: &[&Operand]) -> Result<(Terms, Vec<Label>, Vec<usize>), String> {
        let shapes: Vec<&[usize]> = operands.iter().map(|o| &o.shape[..]).collect();
        let terms = self.terms(&shapes.iter().map(|s| s.len()).collect::<Vec<_>>())?;
        let mut axes = terms.out.clone();
        for label in terms.ins.iter().flatten() {
            if !axes.contains(label) {
                axes.push(*label);
            }
        }
        let sizes = axes.iter().map(|label| terms.size(&shapes, label)).collect();
        Ok((terms, axes, sizes))
    }
}

impl Op for Einsum {
    fn name(&self) -> &str {
        "Einsum"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with("equation", Attr::Str(self.equation.clone()))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let mut operands = Vec::new();
        for i in 0..cx.len() {
            operands.push(cx.ty(i)?);
        }
        let dtype = cx.ty(0)?.dtype;
        let Some(shapes) = operands.iter().map(|t| t.shape.as_ref()).collect::<Option<Vec<_>>>() else {
            return Ok(vec![Type { dtype, shape: None }]);
        };
        let terms = self.terms(&shapes.iter().map(|s| s.len()).collect::<Vec<_>>())?;
        let mut sizes: Vec<(Label, Dim)> = Vec::new();
        for (label, dim) in terms.ins.iter().flatten().zip(shapes.iter().copied().flatten()) {
            let Some((_, known)) = sizes.iter_mut().find(|(l, _)| l == label) else {
                sizes.push((*label, dim.clone()));
                continue;
            };
            let both = match label {
                Label::Shared(_) => stretched(known, dim),
                Label::Letter(_) if !known.agrees(dim) => None,
                Label::Letter(_) if known.fixed().is_some() => Some(known.clone()),
                Label::Letter(_) => Some(dim.clone()),
            };
            *known = both
                .ok_or_else(|| format!("equation \"{}\": {label:?} is {known} and {dim}", self.equation))?;
        }
        let size = |l: &Label| sizes.iter().find(|(k, _)| k == l).map_or(Dim::Fixed(1), |(_, d)| d.clone());
        Ok(vec![Type { dtype, shape: Some(terms.out.iter().map(size).collect()) }])
    }

    /// The gradient of an operand is the equation with operand and result exchanged.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let ins: Vec<_> = (0..).map_while(|i| cx.input(i)).collect();
        let dims = ins.iter().map(|&v| cx.dims(v)).collect::<Option<Vec<_>>>()?;
        let terms = self.terms(&dims.iter().map(Vec::len).collect::<Vec<_>>()).ok()?;
        let mut letters = Letters::new(&terms);
        let shapes: Vec<&[usize]> = dims.iter().map(Vec::as_slice).collect();
        // Operands without the axes of size 1 that the ellipsis repeats, so that every axis has a letter and a size.
        let mut operands = Vec::new();
        for ((&v, dims), term) in ins.iter().zip(&dims).zip(&terms.ins) {
            let repeats =
                |n: usize, l: &Label| matches!(l, Label::Shared(_)) && n == 1 && terms.size(&shapes, l) != 1;
            let kept = || dims.iter().zip(term).filter(|(n, l)| !repeats(**n, l));
            let letters: String = kept().map(|(_, l)| letters.of(*l)).collect::<Option<_>>()?;
            let shape: Vec<i64> = kept().map(|(n, _)| *n as i64).collect();
            let v = match shape.len() == dims.len() {
                true => v,
                false => {
                    let shape = cx.constant_value(list(&shape));
                    cx.add(Reshape::default(), &[v, shape])?
                }
            };
            operands.push((letters, v, shape));
        }
        let result: String = terms.out.iter().map(|l| letters.of(*l)).collect::<Option<_>>()?;
        for (i, (own, _, shape)) in
            operands.iter().enumerate().filter(|(i, _)| cx.wants(*i)).collect::<Vec<_>>()
        {
            let mut given = vec![(result.clone(), cx.d_output(0)?)];
            given.extend(
                operands.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, o)| (o.0.clone(), o.1)),
            );
            let mut term = String::new();
            for (letter, &n) in own.chars().zip(shape) {
                let n = n as usize;
                if term.contains(letter) {
                    // Only the diagonal is read: elsewhere the gradient is 0.
                    cx.claim(n.checked_mul(n)?)?;
                    let column = letters.fresh()?;
                    let diagonal = (0..n * n).map(|i| if i / n == i % n { 1f32 } else { 0.0 }).collect();
                    given.push((
                        format!("{letter}{column}"),
                        cx.constant_value(Tensor::new(&[n, n], diagonal)),
                    ));
                    term.push(column);
                } else {
                    // An axis that nothing else has was summed over: its gradient repeats.
                    if !given.iter().any(|(letters, _)| letters.contains(letter)) {
                        cx.claim(n)?;
                        given.push((letter.into(), cx.constant_value(Tensor::new(&[n], vec![1f32; n]))));
                    }
                    term.push(letter);
                }
            }
            let (left, values): (Vec<String>, Vec<ValueId>) = given.into_iter().unzip();
            let d = cx.add(Einsum { equation: format!("{}->{term}", left.join(",")) }, &values)?;
            let d = reshape_as(cx, d, ins[i])?;
            cx.set(i, d);
        }
        Some(())
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        let operands = cx.ins.iter().map(Option::as_ref).collect::<Option<Vec<_>>>()?;
        let (_, _, sizes) = self.axes(&operands).ok()?;
        let all = sizes.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
        products(all.unwrap_or(usize::MAX / 2), operands.len())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let operands = (0..cx.ins.len()).map(|i| cx.typed::<f32>(i)).collect::<Result<Vec<_>, _>>()?;
        let (terms, axes, sizes) = self.axes(&operands)?;
        let steps: Vec<Vec<usize>> = operands
            .iter()
            .zip(&terms.ins)
            .map(|(o, term)| {
                let strides = strides(&o.shape);
                let along = |label: &Label| {
                    let places = (0..term.len()).filter(|&i| term[i] == *label && o.shape[i] != 1);
                    places.map(|i| strides[i]).sum::<usize>()
                };
                axes.iter().map(along).collect()
            })
            .collect();
        let summed = tensor::element_count(&sizes[terms.out.len()..]).ok_or("a sum has too many terms")?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let y: &mut [f32] = parts.output(0);
            for (i, y) in y.iter_mut().enumerate() {
                let mut sum = 0f64;
                for j in 0..summed {
                    let mut product = 1f64;
                    for (k, steps) in steps.iter().enumerate() {
                        let at = crate::scatter::position(i * summed + j, &sizes, steps);
                        product *= f64::from(parts.input::<f32>(k)[at]);
                    }
                    sum += product;
                }
                *y = sum as f32;
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::DType;

    fn einsum(equation: &str) -> Einsum {
        Einsum { equation: equation.into() }
    }

    #[test]
    fn values() {
        let x = Tensor::new(&[2, 2], vec![1f32, 2.0, 3.0, 4.0]);
        let value = |equation: &str, ins: &[&Tensor]| eval(&einsum(equation), ins).unwrap().to_f32();
        assert_eq!(value("ij->ji", &[&x]), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(value("ii", &[&x]), [5.0]);
        assert_eq!(value("ij,jk", &[&x, &x]), [7.0, 10.0, 15.0, 22.0]);
        assert_eq!(value("...j->...", &[&x]), [3.0, 7.0]);
        assert_eq!(
            value("i,j->ij", &[&x.reshape(&[4]).unwrap(), &Tensor::new(&[1], vec![2f32])]),
            [2.0, 4.0, 6.0, 8.0]
        );
        for wrong in ["ij,jk->ik", "i->i", "ij->ii", "ij->k", "i1->i"] {
            assert!(eval(&einsum(wrong), &[&x]).unwrap_err().contains("equation"), "{wrong}");
        }
    }

    #[test]
    fn the_ellipsis_broadcasts() {
        let infer = |equation: &str, shapes: [&[Dim]; 2]| {
            let types = shapes.map(|s| Type::new(DType::F32, s.to_vec()));
            let args = types.each_ref().map(|ty| Some(ir::Arg { ty, value: None }));
            einsum(equation).infer(&Infer::new(&args, 1)).map(|t| t[0].to_string())
        };
        let (n, one) = (Dim::sym("N"), Dim::Fixed(1));
        let (x, y) = ([n, 2.into(), 3.into()], [one.clone(), 3.into(), 4.into()]);
        assert_eq!(infer("...ij,...jk->...ik", [&x, &y]).unwrap(), "float[N,2,4]");
        assert_eq!(
            infer("...ij,...kj->...ik", [&y, &[2.into(), 5.into(), 4.into()]]).unwrap(),
            "float[2,3,5]"
        );
        assert!(infer("...i,...i", [&[2.into(), one.clone()], &[3.into(), one]]).is_err());

        let (none, row) = (Tensor::zeros(DType::F32, &[0, 2]), Tensor::new(&[1, 2], vec![1f32, 2.0]));
        assert_eq!(eval(&einsum("...i,...i->i"), &[&none, &row]).unwrap().to_f32(), [0.0, 0.0]);
    }

    #[test]
    fn integers_have_a_type_but_no_kernel() {
        let x = Tensor::new(&[1], vec![2i64]);
        assert!(eval(&einsum("i"), &[&x]).unwrap_err().contains("int64"));
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        let (a, b) = (draw.tensor(&[2, 3, 4], -1.0, 1.0), draw.tensor(&[2, 4, 2], -1.0, 1.0));
        check_gradient(einsum("bij,bjk->bik"), &[&a, &b], 1, &[0, 1]);
        check_gradient(einsum("bij,bjk->bki"), &[&a, &b], 1, &[0, 1]);
        check_gradient(einsum("bij->jib"), &[&a], 1, &[0]);
        let one = draw.tensor(&[1, 4, 2], -1.0, 1.0);
        check_gradient(einsum("...ij,...jk->...ik"), &[&a, &one], 1, &[0, 1]);
    }
}
