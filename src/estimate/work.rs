//! What a model's tokens cost: bytes to read and operations to do, by type of weights.

use super::memory::Layouts;
use super::{Candidate, Serving, Tensor};
use crate::catalog::ModelFacts;
use crate::facts::{Cpu, Term, Work};

/// Counts what the tokens of `candidate` cost on a processor.
///
/// An answer token reads every weight once, but for tables of which it looks up a row, for
/// the experts that it is not sent to, and for the encoder of a model that has one. Of a
/// prompt token, nothing is computed of the head and of the last layer's feed-forward: only
/// the last token of a prompt gets that far.
pub fn work(model: &ModelFacts, candidate: &Candidate, serving: &Serving, cpu: &Cpu) -> Work {
    let layouts = Layouts::of_cpu(cpu);
    let mut work = Work::default();
    for tensor in &candidate.tensors {
        let share = share_of_experts(model, tensor);
        if is_read(model, tensor) {
            // repacking changes the order of a row's bytes, not their number
            *work.answer.entry(Term::weights(&tensor.tensor_type)).or_default() +=
                share * tensor.bytes as f64;
        }
        if is_computed(model, tensor) {
            let term = Term::Weights {
                tensor_type: tensor.tensor_type.clone(),
                is_repacked: serving.repack && layouts.has(tensor),
            };
            *work.prompt.entry(term).or_default() += share * 2.0 * tensor.elements() as f64;
        }
    }
    let layers = f64::from(model.decoder_layers.unwrap_or(model.layers));
    work.answer.insert(Term::Layer, layers);
    // a query with a key, and a weight with a value: two operations each
    work.attention = 4.0 * layers * f64::from(model.heads) * f64::from(model.head_dim);
    work
}

fn is_read(model: &ModelFacts, tensor: &Tensor) -> bool {
    let is_head = tensor.is_embedding() && model.is_tied;
    (is_head || !tensor.is_table()) && !tensor.name.starts_with("enc.")
}

fn is_computed(model: &ModelFacts, tensor: &Tensor) -> bool {
    if !tensor.is_product() || tensor.name == "output.weight" {
        return false;
    }
    if model.decoder_layers.is_some() {
        // the prompt goes through the encoder, and into the keys and values of the decoder
        let name = tensor.name.as_str();
        return name.starts_with("enc.") || name.contains("cross_attn_k") || name.contains("cross_attn_v");
    }
    !tensor.name.starts_with(&format!("blk.{}.ffn_", model.layers.saturating_sub(1)))
}

/// Returns the part of a tensor of many experts that one token is sent to.
fn share_of_experts(model: &ModelFacts, tensor: &Tensor) -> f64 {
    let experts = tensor.shape.get(2).copied().unwrap_or(1);
    match model.experts_used {
        Some(used) if tensor.name.contains("_exps.") && experts > 0 => {
            (f64::from(used) / experts as f64).min(1.0)
        }
        _ => 1.0,
    }
}
