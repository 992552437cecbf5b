use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::stand::Stand;
use super::{Changes, Error, Supervisor, files};
use crate::facts::{Cordon, ServiceState};
use crate::generation::Layout;
use crate::ids::Generation;
use crate::unit::ROUTE;

/// What `cordon` needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CordonRequest {
    /// Who wants the host left alone, and since when; none: it takes work again.
    pub cordon: Option<Cordon>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordoned {
    /// The generation in force.
    pub generation: Generation,
    /// Whether the host was as wanted before.
    pub was_so: bool,
}

/// Has the engines of this host take no new work, or take it again: the door is told, and nothing else is touched.
///
/// The mark lies beside the generations: it outlives boots and activations, and only this takes it away. Where it is
/// there already, who put it there stays in it; the door is told again all the same.
pub async fn cordon(
    layout: &Layout,
    lease: u64,
    supervisor: &dyn Supervisor,
    request: &CordonRequest,
) -> Result<Cordoned, Error> {
    let _lock = Lock::take(layout, lease, "cordon")?;
    let stand = Stand::current(layout)?.ok_or(Error::NothingInForce)?;
    let path = layout.cordon();
    let was_so = path.exists() == request.cordon.is_some();
    match &request.cordon {
        _ if was_so => {}
        Some(cordon) => files::write(&path, &files::json("the cordon", cordon)?, 0o644)?,
        None => files::remove(&path)?,
    }
    let door = supervisor.services(&[ROUTE.to_owned()]).await?;
    let named = || vec![ROUTE.to_owned()];
    let changes = match door.get(ROUTE).map(|service| service.state) {
        Some(ServiceState::Running) => Changes { reload: named(), ..Changes::default() },
        // it may have looked already, and cannot be told to look again
        Some(ServiceState::Starting) => Changes { restart: named(), ..Changes::default() },
        // it looks when it starts
        None | Some(ServiceState::Failed | ServiceState::Stopped) => Changes::default(),
    };
    if changes != Changes::default() {
        supervisor.switch(&stand.units, &changes).await?;
    }
    Ok(Cordoned { generation: stand.number, was_so })
}

/// Returns who wants this host left alone. A mark that cannot be read is one all the same.
pub(super) fn kept(layout: &Layout) -> Option<Cordon> {
    if !layout.cordon().exists() {
        return None;
    }
    let unknown = || Cordon { by: "somebody".to_owned(), at: "some time".to_owned() };
    Some(files::read_json(&layout.cordon()).ok().flatten().unwrap_or_else(unknown))
}
