//! `Attention` (ONNX 23, 24, 25): scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762) with masks, caches
//! and groups of query heads that share a key (Ainslie et al. 2023, arXiv 2305.13245).

use crate::parts::{cast, floats, gather, number, reshape, transpose};
use crate::{
    Add, And, Concat, Div, Equal, GreaterOrEqual, Less, LessOrEqual, MatMul, Mul, Pad, ReduceMax, Softmax,
    Tanh, Where,
};
use crate::{reduce::Form, shapes};
use ir::{Attr, Attrs, Compose, Dim, Infer, OnnxForm, Op, Parse, Parsed, QuantRole, Type, ValueId};
use std::sync::Arc;
use tensor::{DType, Tensor};

/// `Attention(q, k, v, mask?, past_key?, past_value?, key_lengths?)`: `softmax(cap(scale q k^T) + mask) v` for each head.
/// `q`, `k` and `v` are floats `(batch, heads, length, size)` or `(batch, length, heads size)`; the mask is boolean or added,
/// and broadcasts to `(batch, heads, query length, key length)`. Keys and values go behind those of the past, and both are
/// results 1 and 2. Of each batch only the first `key_lengths` keys count. A query that may attend to nothing gives zeros.
/// Result 3 is the product of queries and keys, in the state that `product` names.
///
/// The operator is run, trained and quantized as what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// A query attends to no key behind its own place; places are counted behind the keys of the past.
    pub causal: bool,
    /// Heads of the queries, where the operands have three axes.
    pub q_heads: Option<usize>,
    /// Heads of keys and values, where the operands have three axes.
    pub kv_heads: Option<usize>,
    /// Factor of the products; one over the root of the head's size where `None`.
    pub scale: Option<f32>,
    /// Products are bent to stay within this by a hyperbolic tangent; 0 for not at all.
    pub softcap: f32,
    /// Element type of the softmax, as ONNX numbers it; that of the operands where `None`.
    pub softmax_type: Option<i64>,
    /// Result 3: 0 the products, 1 bent by the softcap, 2 with the mask added, 3 the result of the softmax.
    pub product: i64,
    /// How many keys before its own place a query attends to; below 0 for all.
    pub left: i64,
    /// How many keys behind its own place; below 0 for all.
    pub right: i64,
}

/// As a node without attributes.
impl Default for Attention {
    fn default() -> Attention {
        Attention {
            causal: false,
            q_heads: None,
            kv_heads: None,
            scale: None,
            softcap: 0.0,
            softmax_type: None,
            product: 0,
            left: -1,
            right: -1,
        }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let heads = |name: &str| match cx.attrs.int(name, 0)? {
        0 => Ok(None),
        n => usize::try_from(n)
            .map(Some)
            .map_err(|_| format!("attribute {name} should be positive, but is {n}")),
    };
    let int = |name: &str| cx.attrs.get(name).map(|_| cx.attrs.int(name, 0)).transpose();
    Ok(Attention {
        causal: cx.attrs.int("is_causal", 0)? != 0,
        q_heads: heads("q_num_heads")?,
        kv_heads: heads("kv_num_heads")?,
        scale: cx.attrs.get("scale").map(|_| cx.attrs.float("scale", 1.0)).transpose()?,
        softcap: cx.attrs.float("softcap", 0.0)?,
        softmax_type: int("softmax_precision")?,
        product: cx.attrs.int("qk_matmul_output_mode", 0)?,
        left: cx.attrs.int("left_window_size", -1)?,
        right: cx.attrs.int("right_window_size", -1)?,
    }
    .into())
}

/// An operand as `(batch, heads, length, size)`.
fn split_heads(ty: &Type, heads: Option<usize>) -> Result<Option<[Dim; 4]>, String> {
    match (ty.shape.as_deref(), heads) {
        (None, _) => Ok(None),
        (Some([batch, heads, length, size]), _) => Ok(Some([batch, heads, length, size].map(Dim::clone))),
        (Some([batch, length, hidden]), Some(heads)) => {
            let size = match hidden.fixed() {
                Some(n) if n % heads != 0 => {
                    return Err(format!("{ty} does not divide into {heads} heads"));
                }
                Some(n) => Dim::Fixed(n / heads),
                None => Dim::Unknown,
            };
            Ok(Some([batch.clone(), Dim::Fixed(heads), length.clone(), size]))
        }
        (Some([_, _, _]), None) => Err(format!("{ty} has heads side by side, but their number is not given")),
        _ => Err(format!("an operand should have 3 or 4 axes, but is {ty}")),
    }
}

/// The length of two pieces one behind the other.
fn joined(past: Option<&Dim>, now: &Dim) -> Dim {
    match (past, now) {
        (None, now) => now.clone(),
        (Some(Dim::Fixed(a)), Dim::Fixed(b)) => a.checked_add(*b).map_or(Dim::Unknown, Dim::Fixed),
        _ => Dim::Unknown,
    }
}

impl Attention {
    /// Distances from a query's own place to a key, the smallest and the largest, that count.
    fn window(&self) -> Option<(i64, i64)> {
        let ahead = match (self.causal, self.right) {
            (true, _) => 0,
            (false, right) if right >= 0 => -right,
            _ => i64::MIN,
        };
        let behind = if self.left >= 0 { self.left } else { i64::MAX };
        (ahead > i64::MIN || behind < i64::MAX).then_some((ahead, behind))
    }

    /// What is added to the products of queries and keys, numbers of which are `lengths`, and whether a query may be left without
    /// any key; `past` keys lie before the first query.
    fn bias(
        &self,
        cx: &mut Compose,
        q: ValueId,
        past: i64,
        lengths: [&Dim; 2],
    ) -> Option<Option<(ValueId, bool)>> {
        let fixed = |dim: &Dim| i64::try_from(dim.fixed()?).ok();
        let dtype = cx.ty(q).dtype?;
        let (zero, never) = (number(cx, q, 0.0)?, number(cx, q, f64::NEG_INFINITY)?);
        let mut sum: Option<(ValueId, bool)> = None;
        let mut add = |cx: &mut Compose, term: ValueId, may_empty: bool| {
            sum = Some(match sum {
                None => (term, may_empty),
                Some((sofar, _)) => (cx.add(Add, &[sofar, term])?, true),
            });
            Some(())
        };
        if let Some(mask) = cx.input(3) {
            let shape = cx.ty(mask).shape.clone()?;
            let last = shape.last()?;
            let missing = if last == lengths[1] && *last != Dim::Unknown {
                0
            } else {
                fixed(lengths[1])? - fixed(last)?
            };
            let boolean = cx.ty(mask).dtype? == DType::Bool;
            let mask = match missing {
                0 => mask,
                _ => {
                    let mut pads = vec![0; 2 * shape.len()];
                    *pads.last_mut()? = missing;
                    let pads = cx.constant_value(shapes::list(&pads));
                    let value = if boolean { None } else { Some(number(cx, mask, f64::NEG_INFINITY)?) };
                    let ins: Vec<_> =
                        [Some(mask), Some(pads), value].into_iter().filter(Option::is_some).collect();
                    cx.add_multi(Arc::new(Pad::default()), &ins, 1)?[0]
                }
            };
            let term = match boolean {
                true => cx.add(Where, &[mask, zero, never])?,
                false => cast(cx, mask, dtype)?,
            };
            add(cx, term, true)?;
        }
        let counts = match cx.input(6) {
            None => None,
            Some(counts) => Some(reshape(cx, counts, &[-1, 1, 1, 1])?),
        };
        if let Some((low, high)) = self.window() {
            let (queries, keys) = (fixed(lengths[0])?, fixed(lengths[1])?);
            cx.claim(usize::try_from(queries.checked_mul(keys)?).ok()?)?;
            // How far each key lies behind the place of each query.
            let behind = |first: i64| (0..queries).flat_map(move |i| (0..keys).map(move |j| first + i - j));
            let shape = [queries as usize, keys as usize];
            let term = match counts {
                None => {
                    let inside: Vec<f64> = behind(past)
                        .map(|d| if (low..=high).contains(&d) { 0.0 } else { f64::NEG_INFINITY })
                        .collect();
                    let empty = inside.chunks(shape[1].max(1)).any(|row| row.iter().all(|x| *x < 0.0));
                    let term = cx.constant_value(floats(dtype, &shape, &inside)?);
                    (term, empty)
                }
                Some(counts) => {
                    let first =
                        cx.constant_value(Tensor::new(&shape, behind(-queries).collect::<Vec<i64>>()));
                    let distance = cx.add(Add, &[first, counts])?;
                    let (low, high) = (Tensor::scalar(low), Tensor::scalar(high));
                    let (low, high) = (cx.constant_value(low), cx.constant_value(high));
                    let (near, far) =
                        (cx.add(GreaterOrEqual, &[distance, low])?, cx.add(LessOrEqual, &[distance, high])?);
                    let inside = cx.add(And, &[near, far])?;
                    (cx.add(Where, &[inside, zero, never])?, true)
                }
            };
            add(cx, term.0, term.1)?;
        }
        if let Some(counts) = counts {
            let keys = lengths[1].fixed()?;
            cx.claim(keys)?;
            let places = cx.constant_value(shapes::list(&(0..keys as i64).collect::<Vec<_>>()));
            let there = cx.add(Less, &[places, counts])?;
            let term = cx.add(Where, &[there, zero, never])?;
            add(cx, term, true)?;
        }
        Some(sum)
    }
}

impl Op for Attention {
    fn name(&self) -> &str {
        "Attention"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = Attrs::new()
            .with_int("is_causal", self.causal.into(), 0)
            .with_int("q_num_heads", self.q_heads.unwrap_or(0) as i64, 0)
            .with_int("kv_num_heads", self.kv_heads.unwrap_or(0) as i64, 0)
            .with_float("softcap", self.softcap, 0.0)
            .with_int("qk_matmul_output_mode", self.product, 0)
            .with_int("left_window_size", self.left, -1)
            .with_int("right_window_size", self.right, -1);
        if let Some(scale) = self.scale {
            attrs.set("scale", Attr::Float(scale));
        }
        if let Some(ty) = self.softmax_type {
            attrs.set("softmax_precision", Attr::Int(ty));
        }
        attrs
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        crate::unary::since(self, opset, if self.left >= 0 || self.right >= 0 { 25 } else { 23 })
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (q, k, v) = (cx.float(0)?, cx.float(1)?, cx.float(2)?);
        let [qs, ks, vs] =
            [split_heads(q, self.q_heads)?, split_heads(k, self.kv_heads)?, split_heads(v, self.kv_heads)?];
        // Each two of them have to fit, also where nothing is known of the third.
        let agree = |a: &Option<[Dim; 4]>, b: &Option<[Dim; 4]>, axis: usize| {
            a.as_ref().zip(b.as_ref()).is_none_or(|(a, b)| a[axis].agrees(&b[axis]))
        };
        if !agree(&qs, &ks, 3) || !agree(&ks, &vs, 2) || !agree(&ks, &vs, 1) {
            return Err(format!("queries {q}, keys {k} and values {v} do not fit together"));
        }
        let heads = |of: &Option<[Dim; 4]>| of.as_ref().and_then(|[_, heads, ..]| heads.fixed());
        if let (Some(a), Some(b)) = (heads(&qs), heads(&ks).or(heads(&vs)))
            && (b == 0 || a % b != 0)
        {
            return Err(format!("{a} heads of queries do not share {b} heads of keys"));
        }
        let ty = |shape: Option<Vec<Dim>>| Type { dtype: q.dtype, shape };
        let (Some([batch, heads, length, _]), Some([_, kv_heads, keys, key_size]), Some([.., value_size])) =
            (qs, ks, vs)
        else {
            return Ok(vec![ty(None); 4]);
        };
        let past = |i: usize| {
            let shape = if cx.has(i) { cx.ty(i).ok().and_then(|t| t.shape.clone()) } else { None };
            shape.and_then(|s| s.get(2).cloned())
        };
        let known = |i: usize| !cx.has(i) || past(i).is_some();
        let total = if known(4) { joined(past(4).as_ref(), &keys) } else { Dim::Unknown };
        let y = match q.rank() {
            Some(3) => {
                let hidden = match (heads.fixed(), value_size.fixed()) {
                    (Some(a), Some(b)) => a.checked_mul(b).map_or(Dim::Unknown, Dim::Fixed),
                    _ => Dim::Unknown,
                };
                vec![batch.clone(), length.clone(), hidden]
            }
            _ => vec![batch.clone(), heads.clone(), length.clone(), value_size.clone()],
        };
        let cache = |size: &Dim| vec![batch.clone(), kv_heads.clone(), total.clone(), size.clone()];
        Ok(vec![
            ty(Some(y)),
            ty(Some(cache(&key_size))),
            Type { dtype: v.dtype, shape: Some(cache(&value_size)) },
            ty(Some(vec![batch, heads, length, total])),
        ])
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let [mut q, mut k, mut v] = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
        let dtype = cx.ty(q).dtype?;
        let flat = cx.ty(q).rank()? == 3;
        let heads =
            |x: ValueId, heads: Option<usize>, cx: &Compose| split_heads(cx.ty(x), heads).ok().flatten();
        let [_, q_heads, queries, size] = heads(q, self.q_heads, cx)?;
        let [_, kv_heads, keys, _] = heads(k, self.kv_heads, cx)?;
        let (q_heads, kv_heads) = (q_heads.fixed()?, kv_heads.fixed()?);
        let past = match cx.input(4) {
            Some(past) => Some(cx.ty(past).shape.as_ref()?.get(2)?.clone()),
            None => None,
        };
        let total = joined(past.as_ref(), &keys);
        let past = past.map_or(Some(0), |n| i64::try_from(n.fixed()?).ok())?;
        if flat {
            for (x, heads) in [(&mut q, q_heads), (&mut k, kv_heads), (&mut v, kv_heads)] {
                let split = reshape(cx, *x, &[0, 0, heads as i64, -1])?;
                *x = transpose(cx, split, &[0, 2, 1, 3])?;
            }
        }
        if let (Some(past_key), Some(past_value)) = (cx.input(4), cx.input(5)) {
            k = cx.add(Concat { axis: 2 }, &[past_key, k])?;
            v = cx.add(Concat { axis: 2 }, &[past_value, v])?;
        }
        let (present_key, present_value) = (k, v);
        if q_heads != kv_heads {
            let group = q_heads.checked_div(kv_heads).filter(|&group| group > 0)?;
            let shared = |h: usize| h / group;
            k = gather(cx, k, 1, &[q_heads], shared)?;
            v = gather(cx, v, 1, &[q_heads], shared)?;
        }
        // Half of the scale for each factor, as the operator's definition has it.
        let scale = match self.scale {
            Some(scale) => f64::from(scale),
            None => 1.0 / (size.fixed()? as f64).sqrt(),
        };
        let root = number(cx, q, scale.sqrt())?;
        let q = cx.add(Mul, &[q, root])?;
        let k = transpose(cx, k, &[0, 1, 3, 2])?;
        let k = cx.add(Mul, &[k, root])?;
        let mut product = cx.add(MatMul, &[q, k])?;
        let mut stages = vec![product];
        if self.softcap > 0.0 {
            let cap = number(cx, q, self.softcap.into())?;
            product = cx.add(Div, &[product, cap])?;
            product = cx.add(Tanh, &[product])?;
            product = cx.add(Mul, &[product, cap])?;
        }
        stages.push(product);
        let bias = self.bias(cx, q, past, [&queries, &total])?;
        let mut empty = None;
        if let Some((bias, may_empty)) = bias {
            product = cx.add(Add, &[product, bias])?;
            stages.push(product);
            if may_empty {
                let last = cx.constant_value(shapes::list(&[-1]));
                let largest = cx.add(ReduceMax { form: Form::default() }, &[bias, last])?;
                let never = number(cx, bias, f64::NEG_INFINITY)?;
                let rows = cx.add(Equal, &[largest, never])?;
                let zero = number(cx, product, 0.0)?;
                product = cx.add(Where, &[rows, zero, product])?;
                empty = Some(rows);
            }
        } else {
            stages.push(product);
        }
        if let Some(ty) = self.softmax_type.and_then(|ty| DType::from_onnx(ty as i32)) {
            product = cast(cx, product, ty)?;
        }
        let mut weights = cx.add(Softmax { axis: -1, flatten: false }, &[product])?;
        weights = cast(cx, weights, dtype)?;
        if let Some(rows) = empty {
            let zero = number(cx, weights, 0.0)?;
            weights = cx.add(Where, &[rows, zero, weights])?;
        }
        stages.push(weights);
        let mut y = cx.add(MatMul, &[weights, v])?;
        if flat {
            y = transpose(cx, y, &[0, 2, 1, 3])?;
            y = reshape(cx, y, &[0, 0, -1])?;
        }
        let shown = *stages.get(usize::try_from(self.product).ok()?)?;
        Some(vec![y, present_key, present_value, shown])
    }

    fn quant(&self) -> QuantRole {
        QuantRole::Composite
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient_within, run};

    #[test]
    fn by_definition() {
        let mut draw = Draw::new(3);
        let [q, k, v] = [3, 4, 4].map(|n| draw.tensor(&[1, 1, n, 2], -1.0, 1.0));
        let op = Attention { causal: true, ..Attention::default() };
        let y = run(&op, &[Some(&q), Some(&k), Some(&v)], 1).unwrap().remove(0).to_f64();
        let (q, k, v) = (q.to_f64(), k.to_f64(), v.to_f64());
        for i in 0..3 {
            let score = |j: usize| (0..2).map(|d| q[2 * i + d] * k[2 * j + d]).sum::<f64>() / 2f64.sqrt();
            let weights: Vec<f64> = (0..=i).map(|j| score(j).exp()).collect();
            for d in 0..2 {
                let sum: f64 = weights.iter().enumerate().map(|(j, w)| w * v[2 * j + d]).sum();
                let (found, want) = (y[2 * i + d], sum / weights.iter().sum::<f64>());
                assert!((found - want).abs() < 1e-5, "{found} instead of {want} at {i}, {d}");
            }
        }
    }

    #[test]
    fn a_query_without_keys_gives_zeros() {
        let mut draw = Draw::new(4);
        let [q, k, v] = [0; 3].map(|_| draw.tensor(&[1, 2, 2, 3], -1.0, 1.0));
        let mask = Tensor::bools(&[2, 2], &[true, false, false, false]);
        let y =
            run(&Attention::default(), &[Some(&q), Some(&k), Some(&v), Some(&mask)], 1).unwrap().remove(0);
        let (y, v) = (y.to_f32(), v.to_f32());
        assert_eq!((&y[..3], &y[3..6]), (&v[..3], &[0.0; 3][..]));
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(5);
        let q = draw.tensor(&[2, 3, 8], -1.0, 1.0);
        let [k, v] = [0; 2].map(|_| draw.tensor(&[2, 3, 4], -1.0, 1.0));
        let mask = draw.tensor(&[3, 3], -1.0, 1.0);
        let op = Attention {
            causal: true,
            q_heads: Some(4),
            kv_heads: Some(2),
            softcap: 2.0,
            ..Attention::default()
        };
        let ins = [Some(&q), Some(&k), Some(&v), Some(&mask)];
        check_gradient_within(Arc::new(op), &ins, 1, &[0, 1, 2, 3], Default::default());
    }

    #[test]
    fn misfits_are_told() {
        let t = |shape: &[usize]| Tensor::zeros(DType::F32, shape);
        let fail = |op: Attention, q: &[usize], k: &[usize]| {
            run(&op, &[Some(&t(q)), Some(&t(k)), Some(&t(k))], 1).unwrap_err()
        };
        assert!(fail(Attention::default(), &[1, 2, 8], &[1, 2, 8]).contains("number is not given"));
        assert!(fail(Attention::default(), &[1, 3, 2, 8], &[1, 2, 2, 8]).contains("do not share"));
        let three = Attention { q_heads: Some(3), kv_heads: Some(3), ..Attention::default() };
        assert!(fail(three, &[1, 2, 8], &[1, 2, 9]).contains("does not divide"));
        // The heads of queries and keys are known, and nothing of the values.
        let part = |shape: &[usize]| Type::new(DType::F32, shape.iter().copied());
        let (q, k, v) =
            (part(&[1, 2, 6, 8]), part(&[1, 4, 6, 8]), Type { dtype: Some(DType::F32), shape: None });
        let args = [&q, &k, &v].map(|ty| Some(ir::Arg { ty, value: None }));
        let misfit = Attention::default().infer(&Infer::new(&args, 1)).unwrap_err();
        assert_eq!(misfit, "2 heads of queries do not share 4 heads of keys");
    }
}
