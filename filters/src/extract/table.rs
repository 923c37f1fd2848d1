//! Which tables hold records and which arrange a page.
//!
//! In: the tree, which nodes are content, and a table. Out: whether its rows are records, to be written as rows, or
//! blocks, to be written one after the other. How rows look is left to `render`.

use super::ExtractFault;
use super::dom::Tree;
use super::score::Content;
use super::tag::Tag;
use super::work::Work;

/// Text longer than this in one cell, in bytes, means the table arranges the page and holds no records.
const MAX_CELL_BYTES: usize = 600;

/// True for rows of short cells; a table around blocks of prose or other tables is page layout.
pub(super) fn is_table_of_records(
    tree: &Tree,
    content: &Content,
    table: usize,
    work: &mut Work,
) -> Result<bool, ExtractFault> {
    let (mut cells, mut cell_end, mut cell_bytes) = (0, 0, 0);
    let (mut at, end) = (table + 1, tree.nodes[table].end as usize);
    while at < end {
        let node = &tree.nodes[at];
        work.charge(1)?;
        if !content.keeps(at) {
            at = node.end as usize;
            continue;
        }
        match node.tag {
            Tag::Table | Tag::H1 | Tag::H2 | Tag::H3 | Tag::Article | Tag::Section | Tag::Pre => return Ok(false),
            Tag::Td | Tag::Th => (cells, cell_end, cell_bytes) = (cells + 1, node.end as usize, 0),
            Tag::Text if at < cell_end => {
                cell_bytes += tree.text(at).trim().len();
                if cell_bytes > MAX_CELL_BYTES {
                    return Ok(false);
                }
            }
            _ => {}
        }
        at += 1;
    }
    Ok(cells > 1)
}
