//! Tables of plain text.

use std::fmt;

/// A table with a heading; columns of numbers are aligned to the right, others to the left.
///
/// ```
/// let mut table = onnx_qat_report::Table::new(["model", "top-1", "size"]).title("digits");
/// table.row(["float", "99.44 %", "30.1 kB"]);
/// table.row(["int8", "99.17 %", "14.0 kB"]);
/// assert_eq!(
///     table.to_string(),
///     "\
/// digits
/// model    top-1     size
/// -----  -------  -------
/// float  99.44 %  30.1 kB
/// int8   99.17 %  14.0 kB
/// "
/// );
/// ```
#[derive(Clone, Debug, Default)]
pub struct Table {
    title: Option<String>,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these column headings.
    pub fn new(head: impl IntoIterator<Item = impl Into<String>>) -> Table {
        Table { head: head.into_iter().map(Into::into).collect(), ..Table::default() }
    }

    /// Puts a line above the table.
    pub fn title(mut self, title: impl Into<String>) -> Table {
        self.title = Some(title.into());
        self
    }

    /// Adds a row. Missing cells at its end are empty; a cell beyond the headings gets a column without one.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) -> &mut Table {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }

    /// No rows yet.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Starts like a number, whatever unit follows; `-` stands for a value that is missing.
fn is_number(cell: &str) -> bool {
    cell == "-" || cell.trim_start_matches(['-', '+']).starts_with(|c: char| c.is_ascii_digit())
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).fold(self.head.len(), usize::max);
        let cell = |row: &[String], c: usize| row.get(c).cloned().unwrap_or_default();
        let width = |c: usize| {
            let rows = std::iter::once(&self.head).chain(&self.rows);
            rows.map(|row| cell(row, c).chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let right: Vec<bool> = (0..columns)
            .map(|c| {
                let mut filled =
                    self.rows.iter().map(|row| cell(row, c)).filter(|c| !c.is_empty()).peekable();
                filled.peek().is_some() && filled.all(|c| is_number(&c))
            })
            .collect();
        let line = |row: &[String]| {
            let cells = (0..columns).map(|c| match right[c] {
                true => format!("{:>1$}", cell(row, c), widths[c]),
                false => format!("{:<1$}", cell(row, c), widths[c]),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
        };
        if let Some(title) = &self.title {
            writeln!(f, "{title}")?;
        }
        writeln!(f, "{}", line(&self.head))?;
        writeln!(f, "{}", line(&widths.iter().map(|&w| "-".repeat(w)).collect::<Vec<_>>()))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{}", line(row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_by_what_they_hold() {
        let mut table = Table::new(["op", "n", "note"]);
        assert!(table.is_empty());
        table.row(["Conv", "12", "größer"]).row(["Gemm", "-", "1st, 2nd"]).row(["Add"]);
        assert_eq!(
            table.to_string(),
            "op     n  note\n----  --  --------\nConv  12  größer\nGemm   -  1st, 2nd\nAdd\n"
        );
    }

    #[test]
    fn signs_and_units_are_numbers_and_words_are_not() {
        for number in ["-1.5", "+3 %", "12.4 MB", "0", "-"] {
            assert!(is_number(number), "{number}");
        }
        for word in ["", "x1", "--", "n/a", "- 1"] {
            assert!(!is_number(word), "{word}");
        }
    }

    #[test]
    fn odd_tables() {
        assert_eq!(Table::new(["a"]).title("t").to_string(), "t\na\n-\n");
        let mut table = Table::new(["a"]);
        table.row(["1", "more"]);
        assert_eq!(table.to_string(), "a\n-  ----\n1  more\n");
        let none: [&str; 0] = [];
        assert_eq!(Table::new(none).to_string(), "\n\n");
    }
}
