//! The author's manual says of paths what the grammar says, and both are what is read.

use keyward_policy::PathTemplate;

const MANUAL: &str = include_str!("../../../docs/plugins.md");
const GRAMMAR: &str = include_str!("../src/grammar.rs");
const HEAD: &str = "| segment | stands for |";

/// The rows of the table of segments, with its head.
fn table(text: &str) -> Vec<&str> {
    let lines = text.lines().map(|line| line.trim_start_matches("//! "));
    lines.skip_while(|line| *line != HEAD).take_while(|line| line.starts_with('|')).collect()
}

#[test]
fn manual_and_grammar_have_the_same_table_of_segments() {
    assert!(table(GRAMMAR).len() > 2, "the grammar has no table that begins with {HEAD}");
    assert_eq!(table(MANUAL), table(GRAMMAR));
}

#[test]
fn every_form_in_the_manual_can_be_read() {
    let forms = table(MANUAL).into_iter().skip(2).flat_map(|row| {
        let first = row.split('|').nth(1).unwrap_or_default();
        first.split('`').skip(1).step_by(2)
    });
    let paths = MANUAL.split('`').filter(|text| text.starts_with('/') && text.contains('{'));
    let mut count = 0;
    for form in forms.chain(paths) {
        let template = if form.starts_with('/') { form.to_owned() } else { format!("/{form}") };
        assert!(template.parse::<PathTemplate>().is_ok(), "{template}");
        count += 1;
    }
    assert!(count > 10, "only {count} forms were found");
}
