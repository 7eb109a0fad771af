//! Two marked texts side by side.

/// Characters of a column.
const WIDTH: usize = 38;

/// A stretch of text, and whether it carries loss.
pub type Stretch = (bool, String);

/// What stands before and after text that carries loss, and text that does not.
pub struct Marks {
    /// Before text that carries loss.
    pub trained: &'static str,
    /// After it.
    pub close: &'static str,
    /// Before other text.
    pub other: &'static str,
    /// After either.
    pub end: &'static str,
}

impl Marks {
    /// Colours, or brackets around what carries loss.
    pub fn new(colour: bool) -> Self {
        match colour {
            true => Self { trained: "\x1b[1;32m", close: "", other: "\x1b[2m", end: "\x1b[0m" },
            false => Self { trained: "⟦", close: "⟧", other: "", end: "" },
        }
    }

    /// Text between its marks.
    pub fn mark(&self, (trained, text): &Stretch) -> String {
        match trained {
            true => format!("{}{text}{}{}", self.trained, self.close, self.end),
            false => format!("{}{text}{}", self.other, self.end),
        }
    }
}

/// Columns under their titles. Lines are broken where they are full.
pub fn side_by_side(titles: [&str; 2], texts: [&[Stretch]; 2], marks: &Marks) -> String {
    let [left, right] = texts.map(|text| lines(text, marks));
    let [of_left, of_right] = titles;
    let mut out = format!("{of_left:<WIDTH$} │ {of_right}\n");
    for number in 0..left.len().max(right.len()) {
        let cell = |lines: &[Vec<(bool, char)>]| {
            let line = lines.get(number).map_or(&[][..], Vec::as_slice);
            (shown(line, marks), WIDTH.saturating_sub(line.len()))
        };
        let ((left, pad), (right, _)) = (cell(&left), cell(&right));
        out += format!("{left}{} │ {right}", " ".repeat(pad)).trim_end();
        out.push('\n');
    }
    out
}

/// Characters with whether they carry loss, line by line. Marks that take room are among them.
fn lines(text: &[Stretch], marks: &Marks) -> Vec<Vec<(bool, char)>> {
    let takes_room = |mark: &str| !mark.starts_with('\x1b');
    let mut lines = vec![Vec::new()];
    let mut put = |trained: bool, letter: char| {
        if letter == '\n' {
            return lines.push(Vec::new());
        }
        if lines.last().is_some_and(|line| line.len() == WIDTH) {
            lines.push(Vec::new());
        }
        let letter = if letter.is_control() { ' ' } else { letter };
        lines.last_mut().into_iter().for_each(|line| line.push((trained, letter)));
    };
    for (trained, text) in text {
        let around = if *trained { [marks.trained, marks.close] } else { [marks.other, ""] };
        let [before, after] = around.map(|mark| if takes_room(mark) { mark } else { "" });
        before.chars().chain(text.chars()).chain(after.chars()).for_each(|c| put(*trained, c));
    }
    lines
}

/// A line, with the marks that take no room.
fn shown(line: &[(bool, char)], marks: &Marks) -> String {
    let letters =
        |part: &[(bool, char)]| part.iter().map(|(_, letter)| *letter).collect::<String>();
    if marks.end.is_empty() {
        return letters(line);
    }
    let parts = line.chunk_by(|a, b| a.0 == b.0);
    parts.map(|part| marks.mark(&(part[0].0, letters(part)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_break_where_they_are_full() {
        let left = [(false, "a".repeat(30) + "\n"), (true, "b".repeat(40))];
        let right = [(false, "c".to_owned())];
        let text = side_by_side(["chosen", "rejected"], [&left, &right], &Marks::new(false));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("{:<38} │ rejected", "chosen"));
        assert_eq!(lines[1], format!("{:<38} │ c", "a".repeat(30)));
        assert_eq!(lines[2], format!("⟦{} │", "b".repeat(37)));
        assert_eq!(lines[3], format!("{:<38} │", "bbb⟧"));
        assert_eq!(lines.len(), 4);
        let coloured = side_by_side(["chosen", "rejected"], [&left, &right], &Marks::new(true));
        assert!(coloured.contains(&format!("\x1b[1;32m{}\x1b[0m", "b".repeat(38))), "{coloured:?}");
    }
}
