use super::{Style, count};
use crate::generation::{
    Definition, DoorTls, EngineSpec, Hop, KvType, LoadMode, Pace, RouteSpec, UpstreamKind, UpstreamSpec,
};
use crate::terminal::line as one_line;

/// The name of a host's own engines in its routes.
const LOCAL: &str = "local";

/// Returns one line for each thing that is added, changed or removed.
pub(super) fn changes(before: Option<&Definition>, after: &Definition, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    let old_engines: &[EngineSpec] = before.map_or(&[], |before| &before.engines);
    for engine in &after.engines {
        match old_engines.iter().find(|old| old.model == engine.model) {
            None => lines.push(format!("{} engine {}", style.good("+"), describe(engine))),
            Some(old) => {
                let (was, is) = (describe(old), describe(engine));
                if was != is {
                    lines.push(format!("{} engine {was} -> {is}", style.warn("~")));
                } else if old.pace != engine.pace {
                    // deadlines go by it
                    let (was, is) = (expected(&old.pace), expected(&engine.pace));
                    if was != is {
                        let line = format!("engine {}: expected {was} -> {is}", engine.model);
                        lines.push(format!("{} {line}", style.warn("~")));
                    }
                }
                lines.extend(told(&format!("engine {}", engine.model), settings(old, engine), style));
            }
        }
    }
    for old in old_engines {
        if after.engines.iter().all(|engine| engine.model != old.model) {
            lines.push(format!("{} engine {}", style.bad("-"), describe(old)));
        }
    }
    let old_routes: &[RouteSpec] = before.map_or(&[], |before| &before.door.routes);
    for route in &after.door.routes {
        match old_routes.iter().find(|old| old.model == route.model) {
            None => lines.push(format!("{} route  {}", style.good("+"), describe_route(route))),
            Some(old) => {
                if describe_route(old) != describe_route(route) {
                    let line = format!("route  {} -> {}", describe_route(old), describe_route(route));
                    lines.push(format!("{} {line}", style.warn("~")));
                }
                lines.extend(told(&format!("route  {}", route.model), ways(old, route), style));
            }
        }
    }
    for old in old_routes {
        if after.door.routes.iter().all(|route| route.model != old.model) {
            lines.push(format!("{} route  {}", style.bad("-"), describe_route(old)));
        }
    }
    let old_upstreams: &[UpstreamSpec] = before.map_or(&[], |before| &before.door.upstreams);
    for upstream in &after.door.upstreams {
        // one that comes or goes is seen in the routes
        if let Some(old) = old_upstreams.iter().find(|old| old.name == upstream.name) {
            let who = format!("upstream {}", one_line(&upstream.name));
            lines.extend(told(&who, reached(old, upstream), style));
        }
    }
    match before {
        Some(before) if before.door.port != after.door.port => {
            lines.push(format!("{} port   {} -> {}", style.warn("~"), before.door.port, after.door.port));
        }
        _ => {}
    }
    if let Some(before) = before {
        lines.extend(tls_change(before.door.tls, after.door.tls, style));
    }
    match before {
        Some(before) if before.program != after.program => lines.push(format!(
            "{} program {} ({}) -> {} ({})",
            style.warn("~"),
            one_line(&before.program.version),
            before.program.digest.short(),
            one_line(&after.program.version),
            after.program.digest.short()
        )),
        Some(_) => {}
        None => lines.push(format!(
            "{} program {} ({})",
            style.good("+"),
            one_line(&after.program.version),
            after.program.digest.short()
        )),
    }
    lines
}

/// What something of a generation is called, what it was, and what it will be.
type Change = (&'static str, String, String);

/// Returns a line of what is another thing than before; none where all is the same.
fn told<const N: usize>(of: &str, all: [Change; N], style: Style) -> Option<String> {
    let others = all.into_iter().filter(|(_, was, is)| was != is);
    let others: Vec<String> = others.map(|(what, was, is)| format!("{what} {was} -> {is}")).collect();
    (!others.is_empty()).then(|| format!("{} {of}: {}", style.warn("~"), others.join(", ")))
}

/// What [`describe`] leaves out.
fn settings(old: &EngineSpec, new: &EngineSpec) -> [Change; 7] {
    let load = |engine: &EngineSpec| match engine.load {
        LoadMode::Mmap => "mapped".to_owned(),
        LoadMode::Read => "read".to_owned(),
    };
    let kv = |engine: &EngineSpec| match engine.kv {
        KvType::F16 => "F16".to_owned(),
        KvType::Q8_0 => "Q8_0".to_owned(),
    };
    // another quant of the same source is seen already
    let is_one_quant = old.weights.quant == new.weights.quant;
    let weights =
        |engine: &EngineSpec| if is_one_quant { engine.weights.recipe.short() } else { String::new() };
    [
        ("weights made as", weights(old), weights(new)),
        ("threads", old.threads.to_string(), new.threads.to_string()),
        ("prompt tokens at once", old.micro_batch.to_string(), new.micro_batch.to_string()),
        ("weights are", load(old), load(new)),
        ("repacked", yes(old.repack), yes(new.repack)),
        ("keys and values in", kv(old), kv(new)),
        ("prompts kept", yes(old.keep_prompts), yes(new.keep_prompts)),
    ]
}

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

/// What [`describe_route`] leaves out.
fn ways(old: &RouteSpec, new: &RouteSpec) -> [Change; 3] {
    // those that come or go are seen already
    let stays = old.order.iter().filter_map(|was| {
        let is = new.order.iter().find(|is| is.upstream == was.upstream)?;
        Some((asked(was), asked(is)))
    });
    let (were, are): (Vec<String>, Vec<String>) = stays.filter(|(was, is)| was != is).unzip();
    let desktops = |route: &RouteSpec, other: &RouteSpec| {
        let stays = |hop: &&Hop| other.order.iter().any(|there| there.upstream == hop.upstream);
        let desktops = route.order.iter().filter(stays).filter(|hop| hop.is_desktop);
        let names: Vec<&str> = desktops.map(|hop| hop.upstream.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { one_line(&names.join(" and ")) }
    };
    let heirs = |route: &RouteSpec| match &route.continue_on {
        None => "any engine".to_owned(),
        Some(heirs) if heirs.is_empty() => "nobody".to_owned(),
        Some(heirs) => one_line(&heirs.join(" or ")),
    };
    [
        ("asked", were.join(" and "), are.join(" and ")),
        ("desktops", desktops(old, new), desktops(new, old)),
        ("gone on with by", heirs(old), heirs(new)),
    ]
}

fn asked(hop: &Hop) -> String {
    // that of the host's own engine is seen there
    let quant = hop.quant.as_deref().filter(|_| hop.upstream != LOCAL);
    let quant = quant.map_or_else(String::new, |quant| format!(" {}", one_line(quant)));
    let lacks: Vec<&str> = hop.lacks.iter().map(|lacks| lacks.name()).collect();
    let lacks = if lacks.is_empty() { String::new() } else { format!(" without {}", lacks.join(", ")) };
    format!("{} for {}{quant}{lacks}", one_line(&hop.upstream), one_line(&hop.model))
}

/// How an upstream is reached. A key is told by its name alone.
fn reached(old: &UpstreamSpec, new: &UpstreamSpec) -> [Change; 3] {
    let url = |upstream: &UpstreamSpec| match &upstream.kind {
        UpstreamKind::Local => "this host".to_owned(),
        UpstreamKind::Host { url } | UpstreamKind::Foreign { url, .. } => one_line(url),
    };
    let key = |upstream: &UpstreamSpec| match &upstream.kind {
        UpstreamKind::Foreign { key: Some(name), .. } => one_line(name),
        _ => "none".to_owned(),
    };
    let wake = |upstream: &UpstreamSpec| match upstream.wake {
        Some(wake) => format!("{} (waited for {} s)", wake.mac, wake.wait_seconds),
        None => "never".to_owned(),
    };
    [("address", url(old), url(new)), ("key", key(old), key(new)), ("woken", wake(old), wake(new))]
}

/// What nobody knew was the slowest to expect, which is no figure to show.
fn expected(pace: &Pace) -> String {
    if pace.is_guess { "unknown".to_owned() } else { pace.answer.to_string() }
}

fn tls_change(before: DoorTls, after: DoorTls, style: Style) -> Option<String> {
    match (before, after) {
        (DoorTls::Fleet, DoorTls::Off) => Some(format!(
            "{} tls    fleet -> off: keys, prompts and answers can be read on the network",
            style.bad("~")
        )),
        (DoorTls::Off, DoorTls::Fleet) => Some(format!(
            "{} tls    off -> fleet: clients need https and the fleet's authority (`bramble keys ca`)",
            style.warn("~")
        )),
        (DoorTls::Fleet, DoorTls::Fleet) | (DoorTls::Off, DoorTls::Off) => None,
    }
}

fn describe(engine: &EngineSpec) -> String {
    format!(
        "{} {} (context {}, {})",
        engine.model,
        engine.weights.quant_name(),
        engine.context,
        count(engine.slots as usize, "slot")
    )
}

pub(super) fn describe_route(route: &RouteSpec) -> String {
    let hops: Vec<&str> = route.order.iter().map(|hop| hop.upstream.as_str()).collect();
    let limits = [
        route.overflow_queue.map(|n| format!("queue > {n}")),
        route.overflow_wait_seconds.map(|n| format!("wait > {n} s")),
        route.overflow_prompt_tokens.map(|n| format!("prompt > {n} tokens")),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    let on = if limits.is_empty() { String::new() } else { format!(", on at {}", limits.join(" or ")) };
    format!("{}: {}{on}", route.model, hops.join(" then "))
}
