//! Names of the tools that the gateway runs itself.

/// All of them, in the order in which they are offered.
pub const TOOLS: [&str; 23] = [
    "datetime_now",
    "calculator",
    "unit_convert",
    "web_search",
    "web_fetch",
    "wikipedia_search",
    "wikipedia_page",
    "memory_store",
    "memory_search",
    "memory_delete",
    "memory_describe_scope",
    "image_gen",
    "list_models",
    "rag_query",
    "rag_list_indices",
    "rag_index_info",
    "rag_create_index",
    "rag_delete_index",
    "rag_list_documents",
    "rag_get_document",
    "rag_add_document",
    "rag_update_document",
    "rag_delete_document",
];

/// Those that are offered unless a tenant says otherwise.
pub const INJECTED: [&str; 14] = [
    "datetime_now",
    "calculator",
    "unit_convert",
    "web_search",
    "web_fetch",
    "wikipedia_search",
    "wikipedia_page",
    "memory_store",
    "memory_search",
    "memory_delete",
    "memory_describe_scope",
    "image_gen",
    "list_models",
    "rag_query",
];
