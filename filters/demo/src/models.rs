//! `GET /v1/models`.

use axum::Json;
use serde::Serialize;

/// The ids that are listed. Other names are served as well.
const IDS: [&str; 2] = ["demo", "demo-embed"];

/// 2025-01-01T00:00:00Z; the models have no birthday.
const CREATED: u64 = 1_735_689_600;

#[derive(Serialize)]
pub(crate) struct List {
    object: &'static str,
    data: [Model; IDS.len()],
}

#[derive(Serialize)]
struct Model {
    id: &'static str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

pub(crate) async fn handle() -> Json<List> {
    let data = IDS.map(|id| Model { id, object: "model", created: CREATED, owned_by: "dgx-gateway" });
    Json(List { object: "list", data })
}
