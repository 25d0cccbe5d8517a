//! A table for people: columns as wide as their widest cell, cut to the terminal by nobody.

use std::fmt::Write;

/// Renders `rows` below `head`; the first row of dashes is left out, as in `kubectl get`.
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.get(column).map_or(0, |cell| cell.chars().count()));
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_with_their_last_letter() {
        let rows = vec![vec!["engine-0".into(), "ready".into()], vec!["e".into(), "".into()]];
        assert_eq!(render(&["ENGINE", "STATE"], &rows), "ENGINE     STATE\nengine-0   ready\ne\n");
    }
}
