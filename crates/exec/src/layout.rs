//! Chooses the layout of each operand: channels-last where a kernel wants it, and through element-wise nodes.

use ir::{Layout, Layouts};

/// The part of an operand that matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub shape: &'a [usize],
    /// Where the value lies now; results lie nowhere yet.
    pub layout: Option<Layout>,
}

/// Whether the elements lie in the same order in both layouts.
pub(crate) fn neutral(shape: &[usize]) -> bool {
    shape.len() < 3 || shape[1] == 1 || shape[2..].iter().product::<usize>() == 1
}

/// The layout of each operand and of each result.
pub(crate) fn choose(want: Layouts, ins: &[Option<Seen>], outs: &[Seen]) -> (Vec<Layout>, Vec<Layout>) {
    let pick = |on: bool| if on { Layout::ChannelsLast } else { Layout::Plain };
    let (in_mask, out_mask, on) = match want {
        Layouts::Plain => (0, 0, false),
        Layouts::ChannelsLast { ins, outs } => (ins, outs, true),
        Layouts::Any => (!0, !0, agree(!0, ins, outs) && broadcasts_in_memory(ins, outs)),
        Layouts::Same { ins: i, outs: o } => (i, o, agree(i, ins, outs)),
    };
    let rank3 = |shape: &[usize]| shape.len() >= 3;
    let ins = ins
        .iter()
        .enumerate()
        .map(|(i, s)| pick(on && Layouts::names(in_mask, i) && s.is_some_and(|s| rank3(s.shape))));
    let outs =
        outs.iter().enumerate().map(|(i, s)| pick(on && Layouts::names(out_mask, i) && rank3(s.shape)));
    (ins.collect(), outs.collect())
}

/// Whether the operands for which the layout matters have one shape, and one of them lies channels-last.
fn agree(mask: u32, ins: &[Option<Seen>], outs: &[Seen]) -> bool {
    let mut matter: Vec<&[usize]> = Vec::new();
    let mut last = false;
    for (i, s) in ins.iter().enumerate() {
        let Some(s) = s.as_ref().filter(|s| Layouts::names(mask, i) && !neutral(s.shape)) else { continue };
        matter.push(s.shape);
        last |= s.layout == Some(Layout::ChannelsLast);
    }
    matter.extend(outs.iter().map(|s| s.shape).filter(|s| !neutral(s)));
    last && matter.windows(2).all(|w| w[0] == w[1])
}

/// Whether each broadcast operand can be read as if it were channels-last: it has one element, or the full rank and
/// the same order in both layouts.
fn broadcasts_in_memory(ins: &[Option<Seen>], outs: &[Seen]) -> bool {
    let rank = outs.iter().map(|s| s.shape.len()).max().unwrap_or(0);
    ins.iter().flatten().all(|s| s.shape.len() == rank || s.shape.iter().product::<usize>() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Layout::{ChannelsLast, Plain};

    const X: [usize; 4] = [2, 8, 5, 5];

    fn lying(shape: &[usize], layout: Layout) -> Option<Seen<'_>> {
        Some(Seen { shape, layout: Some(layout) })
    }

    fn out(shape: &[usize]) -> Seen<'_> {
        Seen { shape, layout: None }
    }

    #[test]
    fn element_wise_nodes_follow_their_operands() {
        let ins = [lying(&X, ChannelsLast), lying(&X, Plain)];
        assert_eq!(choose(Layouts::Any, &ins, &[out(&X)]), (vec![ChannelsLast; 2], vec![ChannelsLast]));
        let ins = [lying(&X, Plain), lying(&X, Plain)];
        assert_eq!(choose(Layouts::Any, &ins, &[out(&X)]).1, [Plain]);
    }

    #[test]
    fn a_channel_scale_is_read_in_place() {
        let ins = [lying(&X, ChannelsLast), lying(&[2, 8, 1, 1], Plain)];
        assert_eq!(choose(Layouts::Any, &ins, &[out(&X)]).1, [ChannelsLast]);
        let ins = [lying(&X, ChannelsLast), lying(&[8, 1, 1], Plain)];
        assert_eq!(choose(Layouts::Any, &ins, &[out(&X)]).1, [Plain]);
        let ins = [lying(&X, ChannelsLast), lying(&[5, 5], Plain)];
        assert_eq!(choose(Layouts::Any, &ins, &[out(&X)]).1, [Plain]);
    }

    #[test]
    fn only_the_marked_operands_count() {
        let ins = [lying(&X, ChannelsLast), lying(&[3], Plain)];
        let same = Layouts::Same { ins: 1, outs: 1 };
        assert_eq!(choose(same, &ins, &[out(&X)]), (vec![ChannelsLast, Plain], vec![ChannelsLast]));
    }
}
