"""Graphs: the record, neighbour lists, batching and conversion."""

from geomol.graph.brute_force import brute_force_neighbour_list
from geomol.graph.build import build_graph
from geomol.graph.cells import cell_graph, cell_pairs
from geomol.graph.cloud_graph import graph_from_edges, knn_graph, radius_graph_of_cloud
from geomol.graph.complete import complete_graph
from geomol.graph.complete_store import CompleteStore
from geomol.graph.convert_ase import graph_from_atoms, graph_to_atoms
from geomol.graph.convert_pyg import graph_from_pyg, graph_to_pyg
from geomol.graph.convert_rdkit import graph_from_rdkit, graph_to_rdkit
from geomol.graph.dataset import GraphDataset
from geomol.graph.dense_pairs import DensePairs, dense_graph
from geomol.graph.edge_rules import EdgeRule, graph_by_rule, parse_edge_rule
from geomol.graph.farthest_points import farthest_points, kept_ptr, random_starts
from geomol.graph.knn import knn, nearest_points, pooling_edges, radius_edges
from geomol.graph.neighbours import neighbour_list
from geomol.graph.point_edges import PointEdges, point_edge_vectors
from geomol.graph.record import Graph, edge_vectors
from geomol.graph.repeat import repeat_structures
from geomol.graph.store import GraphStore

__all__ = [
    "CompleteStore",
    "DensePairs",
    "EdgeRule",
    "Graph",
    "GraphDataset",
    "GraphStore",
    "PointEdges",
    "brute_force_neighbour_list",
    "build_graph",
    "cell_graph",
    "cell_pairs",
    "complete_graph",
    "dense_graph",
    "edge_vectors",
    "farthest_points",
    "graph_by_rule",
    "graph_from_atoms",
    "graph_from_edges",
    "graph_from_pyg",
    "graph_from_rdkit",
    "graph_to_atoms",
    "graph_to_pyg",
    "graph_to_rdkit",
    "kept_ptr",
    "knn",
    "knn_graph",
    "nearest_points",
    "neighbour_list",
    "parse_edge_rule",
    "point_edge_vectors",
    "pooling_edges",
    "radius_edges",
    "radius_graph_of_cloud",
    "random_starts",
    "repeat_structures",
]
