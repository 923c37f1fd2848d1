//! What the fuzz targets check, and the modules of `pipeline` that they check, compiled without the rest of that crate: they need
//! nothing of it, and DataFusion and candle would take an hour to build instrumented.

pub mod checks;

#[path = "../../../pipeline/src/source"]
#[allow(dead_code, reason = "the checks use a part of it")]
mod source {
    pub mod http;
    pub mod lz4;
    pub mod records;
    pub mod warc;
}
