//! `LinearAttention` (ONNX 27): attention through a state that each step updates (Katharopoulos et al. 2020, arXiv 2006.16236),
//! with decay (Yang et al. 2023, arXiv 2312.06635) and the delta rule (Yang et al. 2024, arXiv 2412.06464).

use ir::{Attr, Attrs, Dim, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type};

/// `LinearAttention(q, k, v, past?, decay?, beta?)`: floats `(batch, length, heads size)`. A state of shape
/// `(batch, kv_heads, key size, value size)`, `past` or zeros at first, goes along the length: it is multiplied by
/// `exp(decay)`, `k^T (beta (v - k state))` is added, or `k^T v` without the delta rule, and `scale q state` is the result.
/// Result 1 is the last state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearAttention {
    /// Heads of the queries.
    pub q_heads: usize,
    /// Heads of keys and values; each serves as many heads of queries.
    pub kv_heads: usize,
    /// Factor of the result; one over the root of the key's size where 0.
    pub scale: f32,
    /// Whether the state decays.
    pub gated: bool,
    /// Whether a value is replaced by what the state lacks of it.
    pub delta: bool,
    /// A hint on how to run it, without effect on the result.
    pub chunk: Option<i64>,
}

const RULES: [(&str, bool, bool); 4] =
    [("linear", false, false), ("gated", true, false), ("delta", false, true), ("gated_delta", true, true)];

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let rule = cx.attrs.str("update_rule", "gated_delta")?;
    let known = RULES.iter().find(|(name, ..)| *name == rule);
    let &(_, gated, delta) = known.ok_or_else(|| {
        format!("attribute update_rule should be linear, gated, delta or gated_delta, but is \"{rule}\"")
    })?;
    let heads = |name: &str| {
        let n = cx.attrs.int(name, 0)?;
        usize::try_from(n)
            .ok()
            .filter(|&n| n > 0)
            .ok_or_else(|| format!("attribute {name} should be positive, but is {n}"))
    };
    let (q_heads, kv_heads) = (heads("q_num_heads")?, heads("kv_num_heads")?);
    if q_heads % kv_heads != 0 {
        return Err(format!("{q_heads} heads of queries do not share {kv_heads} heads of keys"));
    }
    let chunk = cx.attrs.get("chunk_size").map(|_| cx.attrs.int("chunk_size", 0)).transpose()?;
    Ok(LinearAttention { q_heads, kv_heads, scale: cx.attrs.float("scale", 0.0)?, gated, delta, chunk }
        .into())
}

/// Sizes of operands that fit together.
#[derive(Clone, Copy, Debug)]
struct Plan {
    batch: usize,
    length: usize,
    q_heads: usize,
    kv_heads: usize,
    keys: usize,
    values: usize,
    /// Numbers of decay and beta per step.
    decays: usize,
    betas: usize,
}

impl LinearAttention {
    /// The size of a head in `ty`, `(batch, length, heads size)`.
    fn head(ty: &Type, heads: usize) -> Result<Dim, String> {
        match ty.shape.as_deref() {
            None => Ok(Dim::Unknown),
            Some([_, _, hidden]) => match hidden.fixed() {
                Some(n) if n % heads != 0 => Err(format!("{ty} does not divide into {heads} heads")),
                Some(n) => Ok(Dim::Fixed(n / heads)),
                None => Ok(Dim::Unknown),
            },
            Some(_) => Err(format!("an operand should have 3 axes, but is {ty}")),
        }
    }

    fn plan(&self, cx: &Lower) -> Result<Plan, String> {
        (0..3)
            .chain((3..6).filter(|&i| cx.optional(i).is_some()))
            .try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let &[batch, length, q] = &cx.input(0)?.shape[..] else {
            return Err("queries should have 3 axes".into());
        };
        let (keys, k, v) = (q / self.q_heads, cx.input(1)?, cx.input(2)?);
        let values = v.shape.last().copied().unwrap_or(0) / self.kv_heads;
        if keys == 0 || values == 0 {
            return Err("a head has no elements".into());
        }
        let fits = |shape: &[usize], last: usize| shape == [batch, length, last];
        if !fits(&k.shape, keys * self.kv_heads) || !fits(&v.shape, values * self.kv_heads) {
            return Err(format!("keys {:?} and values {:?} do not fit the queries", k.shape, v.shape));
        }
        let extra = |i: usize, wanted: bool, sizes: [usize; 2]| match cx.optional(i) {
            Some(x) if wanted && sizes.iter().any(|&n| fits(&x.shape, n)) => Ok(x.shape[2]),
            None if !wanted => Ok(0),
            Some(x) => Err(format!("input {i} of shape {:?} has no place here", x.shape)),
            None => Err(format!("input {i} is missing for this rule")),
        };
        let decays = extra(4, self.gated, [self.kv_heads, self.kv_heads * keys])?;
        let betas = extra(5, self.delta, [self.kv_heads, 1])?;
        if let Some(past) = cx.optional(3)
            && past.shape != [batch, self.kv_heads, keys, values]
        {
            return Err(format!("a past state of shape {:?} does not fit", past.shape));
        }
        Ok(Plan {
            batch,
            length,
            q_heads: self.q_heads,
            kv_heads: self.kv_heads,
            keys,
            values,
            decays,
            betas,
        })
    }
}

impl Op for LinearAttention {
    fn name(&self) -> &str {
        "LinearAttention"
    }

    fn attrs(&self) -> Attrs {
        let rule = RULES.iter().find(|r| (r.1, r.2) == (self.gated, self.delta)).map_or("linear", |r| r.0);
        let mut attrs = Attrs::new()
            .with_int("q_num_heads", self.q_heads as i64, 0)
            .with_int("kv_num_heads", self.kv_heads as i64, 0)
            .with_float("scale", self.scale, 0.0)
            .with_str("update_rule", rule, "gated_delta");
        if let Some(chunk) = self.chunk {
            attrs.set("chunk_size", Attr::Int(chunk));
        }
        attrs
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        crate::unary::since(self, opset, 27)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (q, k, v) = (cx.float(0)?, cx.float(1)?, cx.float(2)?);
        let (keys, same, values) = (
            LinearAttention::head(q, self.q_heads)?,
            LinearAttention::head(k, self.kv_heads)?,
            LinearAttention::head(v, self.kv_heads)?,
        );
        if !keys.agrees(&same) {
            return Err(format!("queries {q} and keys {k} do not fit together"));
        }
        let Some([batch, length, _]) = q.shape.as_deref() else {
            return Ok(vec![Type { dtype: q.dtype, shape: None }; 2]);
        };
        let hidden =
            values.fixed().and_then(|n| n.checked_mul(self.q_heads)).map_or(Dim::Unknown, Dim::Fixed);
        let state = vec![batch.clone(), Dim::Fixed(self.kv_heads), keys, values];
        let dtype = if cx.has(3) { cx.ty(3)?.dtype } else { q.dtype };
        Ok(vec![
            Type { dtype: q.dtype, shape: Some(vec![batch.clone(), length.clone(), hidden]) },
            Type { dtype, shape: Some(state) },
        ])
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        let plan = self.plan(cx).ok()?;
        crate::shapes::products(plan.batch * plan.length * plan.q_heads, 2 * plan.keys * plan.values)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let plan = self.plan(cx)?;
        let scale = if self.scale == 0.0 { 1.0 / (plan.keys as f32).sqrt() } else { self.scale };
        let size = plan.keys * plan.values;
        let states = plan.batch * plan.kv_heads * size;
        let shown = cx.outs.len() > 1;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let [q, k, v]: [&[f32]; 3] = [0, 1, 2].map(|i| parts.input(i));
            let (decay, beta): (&[f32], &[f32]) = (parts.input(4), parts.input(5));
            let y: &mut [f32] = parts.output(0);
            let (own, value) = parts.workspace::<f32>().split_at_mut(if shown { 0 } else { states });
            let past: Option<&[f32]> = parts.optional(3);
            let state = if shown { parts.output(1) } else { own };
            match past {
                Some(past) => state.copy_from_slice(past),
                None => state.fill(0.0),
            }
            for (i, state) in state.chunks_exact_mut(size.max(1)).enumerate() {
                let (b, head) = (i / plan.kv_heads, i % plan.kv_heads);
                for row in b * plan.length..(b + 1) * plan.length {
                    let k = &k[(row * plan.kv_heads + head) * plan.keys..][..plan.keys];
                    let v = &v[(row * plan.kv_heads + head) * plan.values..][..plan.values];
                    plan.update(
                        state,
                        k,
                        v,
                        &decay[row * plan.decays..][..plan.decays],
                        &beta[row * plan.betas..][..plan.betas],
                        head,
                        value,
                    );
                    let group = plan.q_heads / plan.kv_heads;
                    for q_head in head * group..(head + 1) * group {
                        let q = &q[(row * plan.q_heads + q_head) * plan.keys..][..plan.keys];
                        let y = &mut y[(row * plan.q_heads + q_head) * plan.values..][..plan.values];
                        y.fill(0.0);
                        for (q, state) in q.iter().zip(state.chunks_exact(plan.values)) {
                            y.iter_mut().zip(state).for_each(|(y, s)| *y += scale * q * s);
                        }
                    }
                }
            }
            Ok(())
        });
        Ok(step.workspace::<f32>(if shown { 0 } else { states } + plan.values))
    }
}

impl Plan {
    /// One step of the state of a head.
    #[allow(clippy::too_many_arguments)]
    fn update(
        &self,
        state: &mut [f32],
        k: &[f32],
        v: &[f32],
        decay: &[f32],
        beta: &[f32],
        head: usize,
        value: &mut [f32],
    ) {
        for (i, row) in state.chunks_exact_mut(self.values).enumerate() {
            let decay = match self.decays {
                0 => continue,
                n if n == self.kv_heads => decay[head],
                _ => decay[head * self.keys + i],
            };
            row.iter_mut().for_each(|s| *s *= decay.exp());
        }
        value.copy_from_slice(v);
        if self.betas > 0 {
            for (k, row) in k.iter().zip(state.chunks_exact(self.values)) {
                value.iter_mut().zip(row).for_each(|(v, s)| *v -= k * s);
            }
            let beta = if self.betas == 1 { beta[0] } else { beta[head] };
            value.iter_mut().for_each(|v| *v *= beta);
        }
        for (k, row) in k.iter().zip(state.chunks_exact_mut(self.values)) {
            row.iter_mut().zip(&*value).for_each(|(s, v)| *s += k * v);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, run};
    use tensor::Tensor;

    #[test]
    fn without_decay_it_is_attention_without_a_softmax() {
        let mut draw = Draw::new(1);
        let [q, k, v] = [0; 3].map(|_| draw.tensor(&[1, 3, 2], -1.0, 1.0));
        let op =
            LinearAttention { q_heads: 1, kv_heads: 1, scale: 1.0, gated: false, delta: false, chunk: None };
        let y = run(&op, &[Some(&q), Some(&k), Some(&v)], 2).unwrap();
        let (q, k, v, y) = (q.to_f64(), k.to_f64(), v.to_f64(), y[0].to_f64());
        for i in 0..3 {
            for d in 0..2 {
                let score = |j: usize| q[2 * i] * k[2 * j] + q[2 * i + 1] * k[2 * j + 1];
                let want: f64 = (0..=i).map(|j| score(j) * v[2 * j + d]).sum();
                assert!((y[2 * i + d] - want).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn misfits_are_told() {
        let op =
            LinearAttention { q_heads: 2, kv_heads: 1, scale: 0.0, gated: true, delta: false, chunk: None };
        let t = |shape: &[usize]| Tensor::zeros(tensor::DType::F32, shape);
        let e = run(&op, &[Some(&t(&[1, 2, 4])), Some(&t(&[1, 2, 2])), Some(&t(&[1, 2, 3]))], 1).unwrap_err();
        assert_eq!(e, "input 4 is missing for this rule");
        let e = run(&op, &[Some(&t(&[1, 2, 4])), Some(&t(&[1, 2, 3])), Some(&t(&[1, 2, 3]))], 1).unwrap_err();
        assert!(e.contains("do not fit together"), "{e}");
    }
}
