//! Which bundle a host gets, where there are several for its machine, and what is said of its graphics processors.

use crate::facts::{Gpu, HostFacts};
use crate::generation::{Bundle, GpuApi};
use crate::manifest::{GpuMode, HostSpec};

/// Returns the bundle for a host: one for its graphics processors where the manifest wants that, they are there and it
/// is, else the one for the CPU.
pub fn bundle<'a>(spec: &HostSpec, facts: &HostFacts, bundles: &'a [Bundle]) -> Option<&'a Bundle> {
    let with = |gpu: Option<GpuApi>| {
        bundles.iter().find(move |bundle| bundle.machine == facts.machine && bundle.gpu == gpu)
    };
    let runs = |bundle: &&Bundle| match (bundle.glibc_version(), facts.glibc) {
        (Some(wanted), Some(there)) => wanted <= there,
        _ => true,
    };
    let with_gpu = |gpu: GpuApi| with(Some(gpu)).filter(runs).filter(|_| card(facts, gpu).is_some());
    spec.gpu.apis().iter().copied().find_map(with_gpu).or_else(|| with(None))
}

/// Returns what is worth knowing of a host's graphics processors, where `bundle` is what it gets.
pub(super) fn notes(spec: &HostSpec, facts: &HostFacts, bundle: &Bundle) -> Vec<String> {
    if spec.gpu == GpuMode::Off {
        let unused = |gpu: &Gpu| {
            format!("a graphics processor is there ({}) and is not used: `gpu: auto` would", described(gpu))
        };
        return facts.gpus.iter().map(unused).collect();
    }
    if let Some(gpu) = bundle.gpu {
        let cards = facts.gpus.iter().filter(|card| card.speaks(gpu)).map(described);
        return vec![format!(
            "its graphics processors ({}) compute by {} as much as they have room for; speed and memory are counted for the CPU",
            cards.collect::<Vec<_>>().join(", "),
            gpu.name()
        )];
    }
    let wanted = spec.gpu.apis().iter().find(|gpu| card(facts, **gpu).is_some());
    let Some(gpu) = wanted else {
        return vec!["no graphics processor is seen there that could be used: the CPU computes".to_owned()];
    };
    vec![format!(
        "a graphics processor is there ({}), and no bundle for it that runs there: the CPU computes until one is made with `{}`",
        card(facts, *gpu).map(described).unwrap_or_default(),
        command(&bundle.target, Some(*gpu))
    )]
}

/// Returns the command that makes a bundle.
pub(super) fn command(target: &str, gpu: Option<GpuApi>) -> String {
    let gpu = gpu.map(|gpu| format!(" --gpu {}", gpu.name())).unwrap_or_default();
    format!("scripts/bundle {target}{gpu}")
}

fn card(facts: &HostFacts, gpu: GpuApi) -> Option<&Gpu> {
    facts.gpus.iter().find(|card| card.speaks(gpu))
}

fn described(gpu: &Gpu) -> String {
    let memory = gpu.memory.map(|memory| format!(" with {memory}")).unwrap_or_default();
    format!("{}{memory}", gpu.name)
}
