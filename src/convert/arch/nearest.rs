//! Which of the known classes an unknown one is most like, by name.

/// Endings that tell what a class does, not which family it is of.
const ENDINGS: [&str; 4] = ["ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "Model"];
/// Below this, names have letters in common by chance.
const LIKE: f64 = 0.8;

/// Returns the known class of the nearest family; none where none is near.
pub(super) fn nearest<'a>(class: &str, known: &[&'a str]) -> Option<&'a str> {
    // what is compared is quadratic in length
    let class = family(class.get(..80).unwrap_or(class));
    if class.is_empty() || class.len() > 80 {
        return None;
    }
    // MT5 is a T5; else by letters: Mixtral is like Mistral
    let like = |known: &str| {
        let known = family(known);
        if class.contains(&known) { 1.0 } else { strsim::jaro_winkler(&class, &known) }
    };
    // of equals the first, or the longest of those that are contained
    let best = known
        .iter()
        .copied()
        .rev()
        .max_by(|a, b| like(a).total_cmp(&like(b)).then(family(a).len().cmp(&family(b).len())))?;
    (like(best) >= LIKE).then_some(best)
}

fn family(class: &str) -> String {
    let stem = ENDINGS.iter().find_map(|ending| class.strip_suffix(ending));
    stem.unwrap_or(class).to_lowercase()
}
