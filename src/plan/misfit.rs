//! Wishes that no host could meet, since the engine does not compute such a model so.

use super::forms::{is_makeable, to_make};
use crate::catalog::{ModelFacts, Stored};
use crate::manifest::{ModelSpec, QuantChoice};
use crate::quant::Quant;

/// Says why the engine cannot serve a model as the manifest wants it; none where it can.
pub(super) fn misfit(facts: &ModelFacts, spec: &ModelSpec) -> Option<String> {
    if let Some(message) = unmakeable(facts, spec).or_else(|| unused_imatrix(facts, spec)) {
        return Some(message);
    }
    let (wanted, exact) = (spec.context?, facts.context_exact?);
    (wanted > exact).then(|| {
        format!(
            "a context of {wanted} is asked for, and llama.cpp computes this model rightly up to {exact} tokens only, since its graph of {} leaves out what tells beyond: ask for {exact} or less",
            facts.architecture
        )
    })
}

/// Refuses quants that cannot be made of a GGUF, or may not: of one that is quantized, unless that is allowed.
fn unmakeable(facts: &ModelFacts, spec: &ModelSpec) -> Option<String> {
    let (Stored::Gguf { quant: own, .. }, QuantChoice::OneOf(wanted)) = (&facts.stored, &spec.quant) else {
        return None;
    };
    if own.is_some_and(|own| wanted.contains(&own)) {
        return None;
    }
    let names: Vec<&str> = wanted.iter().map(|quant| quant.name()).collect();
    if !is_makeable(facts) {
        return Some(format!(
            "{} cannot be made of {} (line {}), a model of a kind ({}) that is not quantized here: take a GGUF that is quantized already",
            names.join(" or "),
            file(facts),
            spec.line,
            facts.architecture
        ));
    }
    (facts.is_quantized() && !spec.requantize).then(|| format!(
        "{} is {} already, and {} made of it (line {}) would have lost quality twice: take the original weights as the source, or the file as it is with `quant: auto`, or allow it with `requantize: true`",
        file(facts),
        own.map_or("quantized", Quant::name),
        names.join(" or "),
        spec.line
    ))
}

/// Refuses an importance matrix that nothing would be made with.
fn unused_imatrix(facts: &ModelFacts, spec: &ModelSpec) -> Option<String> {
    let imatrix = spec.imatrix.as_ref().filter(|_| to_make(facts, spec).is_empty())?;
    Some(format!(
        "{} is used as it is, and the importance matrix {} (line {}) would change nothing: leave `imatrix` out, or name the quant to be made",
        file(facts),
        imatrix.path,
        imatrix.line
    ))
}

fn file(facts: &ModelFacts) -> &str {
    facts.source.files.first().map_or(facts.source.uri.as_str(), |file| file.path.as_str())
}

#[cfg(test)]
mod tests {
    use crate::plan::testing::{Fleet, name};

    /// The fleet with a model that is exact up to 256 tokens.
    fn fleet(context: &str) -> Fleet {
        let mut fleet = Fleet::with("source: hf:org/chat, context: 1024", context);
        for facts in fleet.models.values_mut().flatten() {
            (facts.architecture, facts.window, facts.context_exact) =
                ("qwen2".to_owned(), Some(256), Some(256));
        }
        fleet
    }

    #[test]
    fn a_context_that_is_not_asked_for_ends_where_the_engine_is_exact() {
        let plan = fleet("source: hf:org/chat").plan();
        let host = plan.host(&name("attic")).unwrap();
        assert_eq!(host.definition.engines[0].context, 256);
        assert!(host.choices[0].why.contains("context 256 of 256, up to which"), "{}", host.choices[0].why);
        assert_eq!(fleet("source: hf:org/chat, context: 256").problems(), [""; 0]);
    }

    #[test]
    fn a_context_beyond_is_refused_with_the_number() {
        let (plan, problems) = fleet("source: hf:org/chat, context: 257").make();
        assert!(plan.hosts.iter().all(|host| host.definition.engines.is_empty()));
        assert_eq!(
            problems[0].message,
            "chat: a context of 257 is asked for, and llama.cpp computes this model rightly up to 256 tokens only, since its graph of qwen2 leaves out what tells beyond: ask for 256 or less"
        );
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}
