//! Case A3: stop strings across token borders, and never completed. Every case runs with every way to cut the text.

use engine_text::StopMatcher;
use proptest::prelude::*;

/// Feeds the pieces; the whole text that came out, and the stop string that was met.
fn run<'a>(pieces: impl IntoIterator<Item = &'a str>, stops: &[&str], include: bool) -> (String, Option<usize>) {
    let mut matcher = StopMatcher::new(stops, include);
    let mut out = String::new();
    for piece in pieces {
        let step = matcher.push(piece);
        out.push_str(&step.text);
        if step.stop.is_some() {
            return (out, step.stop);
        }
    }
    out.push_str(&matcher.finish());
    (out, None)
}

/// The text whole, in characters, and cut in two at every place.
#[track_caller]
fn check(text: &str, stops: &[&str], include: bool, expected: &str, stop: Option<usize>) {
    let expected = (expected.to_owned(), stop);
    assert_eq!(run([text], stops, include), expected, "whole");
    let chars: Vec<String> = text.chars().map(String::from).collect();
    assert_eq!(run(chars.iter().map(String::as_str), stops, include), expected, "by characters");
    for (at, _) in text.char_indices() {
        assert_eq!(run([&text[..at], &text[at..]], stops, include), expected, "cut at {at}");
    }
}

#[test]
fn met_and_not_met() {
    check("x\nUser: y", &["\nUser:"], false, "x", Some(0));
    check("x\nUser: y", &["\nUser:"], true, "x\nUser:", Some(0));
    check("x\nUs", &["\nUser:"], false, "x\nUs", None);
    check("x\nUser: y", &["\nUser:", "Us"], false, "x\n", Some(1));
    check("x\nUser: y", &["\nUser:", "Us"], true, "x\nUs", Some(1));
    check("go 🚂 on", &["🚂"], false, "go ", Some(0));
    check("go 🚂 on", &["🚂"], true, "go 🚂", Some(0));
    check("go 🚃 on", &["🚂"], false, "go 🚃 on", None);
    check("", &["x"], false, "", None);
    check("abc", &[], false, "abc", None);
    check("abc", &[""], false, "abc", None);
    check("abc", &["", "b"], false, "a", Some(1));
    check("x", &["x"], false, "", Some(0));
}

#[test]
fn the_one_that_ends_first_wins_and_of_those_the_longest() {
    check("abcdef", &["bcde", "c"], false, "ab", Some(1));
    check("abcdef", &["f", "bc"], false, "a", Some(1));
    check("abc", &["c", "bc", "abc"], false, "", Some(2));
    check("abc", &["abc", "c"], false, "", Some(0));
}

#[test]
fn overlapping_beginnings() {
    check("aaab", &["aab"], false, "a", Some(0));
    check("ababac", &["abac"], false, "ab", Some(0));
    check("\n\n\nUser", &["\n\nUser"], false, "\n", Some(0));
    check("aaaa", &["aaaaa"], false, "aaaa", None);
    check("abcabd", &["abcabe", "bd"], false, "abca", Some(1));
}

#[test]
fn only_what_may_become_a_stop_string_waits() {
    let mut matcher = StopMatcher::new(&["\nUser:"], false);
    assert_eq!(matcher.push("hello\n").text, "hello");
    assert_eq!(matcher.push("Use").text, "");
    assert_eq!(matcher.push("d").text, "\nUsed");
    assert_eq!(matcher.finish(), "");
}

/// `min_tokens`: what ends too early passes, what only began early can still be met.
#[test]
fn unarmed_text() {
    let mut matcher = StopMatcher::new(&["ab"], false);
    let early = matcher.push_unarmed("xab a");
    assert_eq!((early.text.as_str(), early.stop), ("xab ", None));
    let late = matcher.push("b!");
    assert_eq!((late.text.as_str(), late.stop), ("", Some(0)));
    assert_eq!(matcher.push("more").text, "", "nothing comes after a stop");
}

/// What is easy to see: look for every stop string in the whole text.
fn naive(text: &str, stops: &[&str], include: bool) -> (String, Option<usize>) {
    let ends = stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty()).filter_map(|(index, stop)| {
        let start = text.find(stop)?;
        Some((start + stop.len(), std::cmp::Reverse(stop.len()), index, start))
    });
    match ends.min() {
        None => (text.to_owned(), None),
        Some((end, _, index, start)) => (text[..if include { end } else { start }].to_owned(), Some(index)),
    }
}

proptest! {
    #[test]
    fn agrees_with_a_search_of_the_whole_text(text in "[abé]{0,24}", stops in prop::collection::vec("[abé]{0,4}", 0..4), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4), include: bool) {
        let mut stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        stops.sort();
        stops.dedup();
        let mut places: Vec<usize> = cuts.iter().map(|cut| text.floor_char_boundary(cut.index(text.len() + 1))).chain([0, text.len()]).collect();
        places.sort();
        let pieces = places.windows(2).map(|pair| &text[pair[0]..pair[1]]);
        prop_assert_eq!(run(pieces, &stops, include), naive(&text, &stops, include));
    }
}
