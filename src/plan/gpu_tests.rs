use super::testing::{Fleet, MANIFEST, bundle, name};
use crate::facts::Gpu;
use crate::generation::{Bundle, GpuApi};
use crate::ids::Digest;
use crate::units::Bytes;

fn for_gpu(gpu: GpuApi) -> Bundle {
    Bundle { gpu: Some(gpu), digest: Digest::of(gpu.name().as_bytes()), ..bundle("x86_64") }
}

/// A fleet whose desktop has `cards`, wants `mode`, and may have a bundle for each of `gpus`. Returns the one that it gets
/// and what is said of it.
fn desk(mode: Option<&str>, cards: &[&str], gpus: &[GpuApi]) -> (Option<GpuApi>, String) {
    let line = mode.map_or("role: desktop,".to_owned(), |mode| format!("role: desktop, gpu: {mode},"));
    let mut fleet = Fleet::of(&MANIFEST.replace("role: desktop,", &line));
    fleet.bundles.extend(gpus.iter().copied().map(for_gpu));
    let card = |card: &&str| Gpu { name: (*card).to_owned(), memory: Some(Bytes::gib(16)) };
    fleet.facts("desk").gpus = cards.iter().map(card).collect();
    let plan = fleet.plan();
    let desk = plan.host(&name("desk")).unwrap();
    let attic = &plan.host(&name("attic")).unwrap().definition.program;
    assert_eq!(attic.gpu, None, "a host that says nothing of it stays with the CPU");
    (desk.definition.program.gpu, desk.notes.join("\n"))
}

#[test]
fn a_graphics_processor_is_used_where_it_is_wanted_is_there_and_has_a_bundle() {
    let both = [GpuApi::Vulkan, GpuApi::Cuda];
    let (used, said) = desk(Some("auto"), &["AMD"], &both);
    assert_eq!(used, Some(GpuApi::Vulkan));
    insta::assert_snapshot!(said, @"its graphics processors (AMD with 16.0 GiB) compute by vulkan as much as they have room for; speed and memory are counted for the CPU");
    assert_eq!(desk(Some("auto"), &["NVIDIA T4"], &both).0, Some(GpuApi::Cuda));
    assert_eq!(desk(Some("vulkan"), &["NVIDIA T4"], &both).0, Some(GpuApi::Vulkan));
    assert_eq!(desk(Some("auto"), &["NVIDIA T4"], &both[..1]).0, Some(GpuApi::Vulkan));
}

#[test]
fn else_the_cpu_computes_and_why_is_said() {
    let both = [GpuApi::Vulkan, GpuApi::Cuda];
    for (mode, cards, gpus) in [
        (None, &["AMD"][..], &both[..]),
        (Some("off"), &["AMD"], &both),
        (Some("cuda"), &["AMD"], &both),
        (Some("auto"), &[], &both),
        (Some("auto"), &["AMD"], &both[1..]),
        (Some("auto"), &["NVIDIA T4"], &[]),
    ] {
        assert_eq!(desk(mode, cards, gpus).0, None, "{mode:?} {cards:?} {gpus:?}");
    }
    insta::assert_snapshot!(desk(None, &["AMD"], &both).1, @"a graphics processor is there (AMD with 16.0 GiB) and is not used: `gpu: auto` would");
    insta::assert_snapshot!(desk(Some("cuda"), &["AMD"], &both).1, @"no graphics processor is seen there that could be used: the CPU computes");
    insta::assert_snapshot!(desk(Some("vulkan"), &["AMD", "Intel"], &[]).1, @"a graphics processor is there (AMD with 16.0 GiB), and no bundle for it that runs there: the CPU computes until one is made with `scripts/bundle x86_64-unknown-linux-gnu --gpu vulkan`");
}

#[test]
fn a_bundle_that_wants_a_newer_c_library_is_left_for_the_cpus() {
    let mut fleet = Fleet::of(&MANIFEST.replace("role: desktop,", "role: desktop, gpu: auto,"));
    fleet.bundles.push(Bundle { glibc: "9.0".to_owned(), ..for_gpu(GpuApi::Vulkan) });
    fleet.facts("desk").gpus = vec![Gpu { name: "AMD".to_owned(), memory: None }];
    let plan = fleet.plan();
    let desk = plan.host(&name("desk")).unwrap();
    assert_eq!(desk.definition.program.gpu, None);
    assert!(desk.notes[0].contains("no bundle for it that runs there"), "{:?}", desk.notes);
}
