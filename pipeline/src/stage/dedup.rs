//! `dedup`: signatures per fragment, then one resolution over all, then the verdicts per fragment.

use super::extract::table;
use super::rowlocal::{Decided, Files, summary};
use super::{Context, Output};
use crate::dataset::string_column;
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::session::{block_on, register};
use crate::sink::TableSink;
use crate::store::{FragmentRecord, OutputDir};
use crate::udf;
use crate::verdict::{Finding, Status, Verdicts};
use datafusion::arrow::array::{
    ArrayRef, AsArray, Float64Builder, RecordBatch, StringBuilder, UInt32Builder, UInt64Builder,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use datafusion::prelude::{DataFrame, ParquetReadOptions, SessionContext, col};
use dedup::{DedupConfig, Edge, Method, Outcome, candidates, collapse, jaccard, resolve_edges, verify};
use futures::StreamExt;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

const SIGNATURES: &str = "signatures";

impl Options for DedupConfig {
    fn check(&self) -> Vec<OptionFault> {
        let faults = DedupConfig::check(self).err().unwrap_or_default();
        faults
            .into_iter()
            .map(|f| OptionFault::new(f.field, format!("expected {}, got {}", f.expected, f.got)))
            .collect()
    }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &DedupConfig) -> Result<Output> {
    let parts = context.input().parts();
    let signed = context.fragments(SIGNATURES, parts.len(), |index| sign(context, config, &parts[index], index))?;
    context.check_stop()?;
    let documents = load(context, config, &signed)?;
    let (fates, mut overflow) = resolve(config, &documents);
    let fragments = context.fragments("", parts.len(), |index| {
        let mut record = apply(context, config, &parts[index], index, &documents, &fates)?;
        if index == 0 {
            record.counts.append(&mut overflow.clone());
        }
        Ok(record)
    })?;
    overflow.clear();
    let note = summary(&fragments);
    Ok(Output { fragments, note, ..Output::default() })
}

/// Phase A: exact keys, shingle sets and band keys of one fragment, as a side file.
fn sign(context: &Context<'_>, config: &DedupConfig, part: &Path, index: usize) -> Result<FragmentRecord> {
    let session = context.session()?;
    let name = OutputDir::side_name(SIGNATURES, &format!("{index:05}.parquet"));
    block_on(async {
        let frame = session.read_parquet(part.to_string_lossy().into_owned(), ParquetReadOptions::default()).await?;
        let signature = udf::signature(config).call(vec![col("text")]).alias("signature");
        let frame = frame.select(vec![col("id"), signature])?;
        let mut sink = TableSink::create(&context.out.path, &name, Arc::new(frame.schema().as_arrow().clone()))?;
        let mut stream = frame.execute_stream().await?;
        while let Some(batch) = stream.next().await {
            sink.write(&batch?)?;
        }
        Ok(FragmentRecord { files: vec![sink.finish()?], ..FragmentRecord::default() })
    })
}

/// All documents, numbered in survivor order.
#[derive(Default)]
struct Documents {
    ids: Vec<String>,
    rank: HashMap<String, u32>,
    keys: Vec<u128>,
    shingles: Vec<Vec<u64>>,
    bands: Vec<Vec<u64>>,
}

fn load(context: &Context<'_>, config: &DedupConfig, signed: &[FragmentRecord]) -> Result<Documents> {
    let ids = survivor_order(context, config)?;
    let rank: HashMap<String, u32> = ids.iter().enumerate().map(|(i, id)| (id.clone(), i as u32)).collect();
    let n = ids.len();
    if rank.len() != n {
        return Err(Error::InputData(format!("the input of stage `{}` holds an id twice", context.name())));
    }
    let mut documents =
        Documents { ids, rank, keys: vec![0; n], shingles: vec![Vec::new(); n], bands: vec![Vec::new(); n] };
    for record in signed {
        for batch in context.input().read(&context.out.path.join(&record.files[0].path), &["id", "signature"])? {
            let ids = string_column(&batch, "id")?;
            let signature = batch.column_by_name("signature").expect("it was asked for").as_struct();
            let [high, low] = [0, 1].map(|i| signature.column(i).as_primitive::<UInt64Type>());
            let [shingles, bands] = [2, 3].map(|i| signature.column(i).as_list::<i32>());
            for row in 0..batch.num_rows() {
                let at = documents.rank[ids.value(row)] as usize;
                documents.keys[at] = u128::from(high.value(row)) << 64 | u128::from(low.value(row));
                documents.shingles[at] = shingles.value(row).as_primitive::<UInt64Type>().values().to_vec();
                documents.bands[at] = bands.value(row).as_primitive::<UInt64Type>().values().to_vec();
            }
        }
    }
    Ok(documents)
}

/// Ids in the order in which documents deserve to stay.
fn survivor_order(context: &Context<'_>, config: &DedupConfig) -> Result<Vec<String>> {
    let session = context.session()?;
    block_on(async {
        register(&session, "input", &context.input().parts()).await?;
        let frame = survivors(&session, context.name(), &*context.input().schema()?, config).await?;
        let mut ids = Vec::new();
        for batch in frame.collect().await? {
            ids.extend(string_column(&batch, "id")?.iter().flatten().map(String::from));
        }
        Ok(ids)
    })
}

/// Plans the order of `survivor` over the table `input`.
async fn survivors(session: &SessionContext, stage: &str, input: &Schema, config: &DedupConfig) -> Result<DataFrame> {
    let bytes = if input.column_with_name("text_bytes").is_some() { "" } else { ", octet_length(text) AS text_bytes" };
    let query = format!("SELECT id FROM (SELECT *{bytes} FROM input) ORDER BY {}, id", config.survivor);
    super::sql::select_only(session, &query).await.map_err(|e| {
        let e = e.strip_backtrace();
        Error::Manifest(format!(
            "error: `survivor` of stage `{stage}`: {e}\nhint: expected a SQL ORDER BY list such as \"text_bytes DESC\""
        ))
    })
}

/// Whether `survivor` can be planned over an input with these columns.
pub async fn check_survivor(
    session: &SessionContext,
    stage: &str,
    input: &SchemaRef,
    config: &DedupConfig,
) -> Result<()> {
    session.register_table("input", super::shape::empty(session, input)?.into_view())?;
    survivors(session, stage, input, config).await?.create_physical_plan().await?;
    Ok(())
}

/// What the stage makes of a table without rows.
pub fn dry(input: DataFrame, config: &DedupConfig) -> Result<Decided> {
    super::rowlocal::dry(input, Ok, |batch| decide(batch, config, &Documents::default(), &[]))
}

/// What becomes of a document.
#[derive(Clone, Copy)]
struct Fate {
    kept: u32,
    jaccard: Option<f64>,
    shared_bands: u32,
    method: &'static str,
    cluster_size: u64,
}

/// Phases B and C: equal texts collapse, candidates are verified, and every document gets its fate.
fn resolve(config: &DedupConfig, documents: &Documents) -> (Vec<Fate>, crate::store::Counts) {
    let n = documents.ids.len();
    let order: Vec<u32> = (0..n as u32).collect();
    let first = collapse(&order, &documents.keys);
    let unique: Vec<u32> = order.iter().copied().filter(|d| first[*d as usize] == *d).collect();
    let mut counts = crate::store::Counts::new();
    let outcomes = match config.method {
        Method::Exact => unique.iter().map(|_| Outcome::Kept { cluster_size: 1 }).collect(),
        Method::Minhash => {
            let mut bands: Vec<Vec<(u64, u32)>> = vec![Vec::with_capacity(unique.len()); config.bands];
            for (place, document) in unique.iter().enumerate() {
                for (band, key) in bands.iter_mut().zip(&documents.bands[*document as usize]) {
                    band.push((*key, place as u32));
                }
            }
            bands.iter_mut().for_each(|b| b.sort_unstable());
            let (pairs, overflow) = candidates(&bands, config.max_candidates);
            counts.insert("candidates".into(), pairs.len() as u64);
            counts.insert("overflow:buckets".into(), overflow.buckets);
            counts.insert("overflow:pairs".into(), overflow.pairs);
            let of = |place: u32| documents.shingles[unique[place as usize] as usize].as_slice();
            let edges: Vec<Edge> = verify(&pairs, |a, b| jaccard(of(a), of(b)), config);
            let places: Vec<u32> = (0..unique.len() as u32).collect();
            resolve_edges(&places, &edges, config)
        }
    };
    let place_of: HashMap<u32, usize> = unique.iter().enumerate().map(|(p, d)| (*d, p)).collect();
    let mut fates: Vec<Fate> = first
        .iter()
        .enumerate()
        .map(|(document, representative)| {
            let exact = document as u32 != *representative;
            match &outcomes[place_of[representative]] {
                Outcome::Kept { .. } => Fate {
                    kept: *representative,
                    jaccard: exact.then_some(1.0),
                    shared_bands: 0,
                    method: "exact",
                    cluster_size: 0,
                },
                Outcome::Removed { kept, jaccard, shared_bands } => Fate {
                    kept: unique[*kept as usize],
                    jaccard: *jaccard,
                    shared_bands: *shared_bands,
                    method: "minhash",
                    cluster_size: 0,
                },
            }
        })
        .collect();
    let mut sizes = vec![0u64; n];
    fates.iter().for_each(|f| sizes[f.kept as usize] += 1);
    fates.iter_mut().for_each(|f| f.cluster_size = sizes[f.kept as usize]);
    (fates, counts)
}

/// Phase D: the verdicts and the kept rows of one fragment.
fn apply(
    context: &Context<'_>,
    config: &DedupConfig,
    part: &Path,
    index: usize,
    documents: &Documents,
    fates: &[Fate],
) -> Result<FragmentRecord> {
    let session = context.session()?;
    block_on(async {
        let frame = session.read_parquet(part.to_string_lossy().into_owned(), ParquetReadOptions::default()).await?;
        let empty = RecordBatch::new_empty(Arc::new(frame.schema().as_arrow().clone()));
        let first = decide(empty, config, documents, fates)?;
        let mut files = Files::of(context, index, &first)?;
        let mut record = FragmentRecord::default();
        let mut stream = frame.execute_stream().await?;
        while let Some(batch) = stream.next().await {
            let decided = decide(batch?, config, documents, fates)?;
            files.write(&decided)?;
            for (name, n) in &decided.counts.counts {
                record.add(name, *n);
            }
        }
        record.files = files.finish()?;
        Ok(record)
    })
}

fn decide(batch: RecordBatch, config: &DedupConfig, documents: &Documents, fates: &[Fate]) -> Result<Decided> {
    let ids = string_column(&batch, "id")?.clone();
    let mut verdicts = Verdicts::default();
    let (mut kept_id, mut cluster_id, mut method) = (StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    let (mut similarity, mut shared, mut size) = (Float64Builder::new(), UInt32Builder::new(), UInt64Builder::new());
    let mut keep = Vec::with_capacity(batch.num_rows());
    for id in ids.iter().flatten() {
        let document = documents.rank[id];
        let fate = fates[document as usize];
        let stays = fate.kept == document;
        let survivor = &documents.ids[fate.kept as usize];
        if stays {
            verdicts.keep(id);
        } else {
            let finding = Finding {
                rule: format!("dedup.{}", fate.method),
                value: fate.jaccard,
                threshold: Some(if fate.method == "exact" { 1.0 } else { config.min_jaccard }),
                reason: Some(format!("repeats {survivor}")),
            };
            verdicts.push(id, Status::Dropped, &[finding]);
        }
        kept_id.append_option((!stays).then_some(survivor));
        cluster_id.append_value(survivor);
        method.append_option((!stays).then_some(fate.method));
        similarity.append_option(if stays { None } else { fate.jaccard });
        shared.append_option((!stays).then_some(fate.shared_bands));
        size.append_value(fate.cluster_size);
        keep.push(stays);
    }
    let (cluster_id, size): (ArrayRef, ArrayRef) = (Arc::new(cluster_id.finish()), Arc::new(size.finish()));
    let more = vec![
        (Field::new("kept_id", DataType::Utf8, true), Arc::new(kept_id.finish()) as ArrayRef),
        (Field::new("cluster_id", DataType::Utf8, false), cluster_id),
        (Field::new("cluster_size", DataType::UInt64, false), size.clone()),
        (Field::new("method", DataType::Utf8, true), Arc::new(method.finish())),
        (Field::new("jaccard", DataType::Float64, true), Arc::new(similarity.finish())),
        (Field::new("shared_bands", DataType::UInt32, true), Arc::new(shared.finish())),
    ];
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if field.name() == "text" {
            columns.push(("cluster_size".into(), size.clone()));
        }
        if field.name() != "cluster_size" {
            columns.push((field.name().clone(), column.clone()));
        }
    }
    let counts = std::mem::take(&mut verdicts.counts);
    Ok(Decided { rows: table(columns)?, keep: keep.into(), verdicts: verdicts.finish(more)?, edits: None, counts })
}
