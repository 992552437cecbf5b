//! Wishes that no host could meet, since the engine does not compute such a model so.

use crate::catalog::ModelFacts;
use crate::manifest::ModelSpec;

/// Says why the engine cannot serve a model as the manifest wants it; none where it can.
pub(super) fn misfit(facts: &ModelFacts, spec: &ModelSpec) -> Option<String> {
    if facts.decoder_layers.is_some() {
        return Some(format!(
            "it reads with an encoder ({}), which the engine cannot serve yet: deploy a model that only decodes",
            facts.architecture
        ));
    }
    let (wanted, exact) = (spec.context?, facts.context_exact?);
    (wanted > exact).then(|| {
        format!(
            "a context of {wanted} is asked for, and llama.cpp computes this model rightly up to {exact} tokens only, since its graph of {} leaves the window out: ask for {exact} or less",
            facts.architecture
        )
    })
}

#[cfg(test)]
mod tests {
    use crate::plan::testing::{Fleet, name};

    /// The fleet with a model that is exact up to 256 tokens.
    fn fleet(context: &str) -> Fleet {
        let mut fleet = Fleet::with("source: hf:org/chat, context: 1024", context);
        for facts in fleet.models.values_mut().flatten() {
            (facts.architecture, facts.window, facts.context_exact) =
                ("gpt2".to_owned(), Some(256), Some(256));
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
            "chat: a context of 257 is asked for, and llama.cpp computes this model rightly up to 256 tokens only, since its graph of gpt2 leaves the window out: ask for 256 or less"
        );
        assert_eq!(problems.len(), 1, "{problems:?}");
    }

    #[test]
    fn a_model_that_reads_with_an_encoder_is_refused() {
        let mut fleet = Fleet::new();
        for facts in fleet.models.values_mut().flatten() {
            (facts.architecture, facts.decoder_layers) = ("t5".to_owned(), Some(8));
        }
        let problems = fleet.problems();
        assert!(
            problems.len() == 1 && problems[0].contains("chat: it reads with an encoder (t5)"),
            "{problems:?}"
        );
    }
}
