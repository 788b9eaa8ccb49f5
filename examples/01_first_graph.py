"""From atoms to a graph: pairs within a cutoff, periodic images included, and back again."""

from ase.build import bulk, molecule

from geomol.graph import build_graph, edge_vectors, graph_to_atoms

# one molecule: nodes are atoms, edges are all ordered pairs nearer than 3 Å
ethanol = build_graph(molecule("CH3CH2OH"), cutoff=3.0)
print(f"ethanol: {ethanol.num_nodes} atoms, {ethanol.num_edges} edges")

# a primitive copper cell is thinner than the cutoff: the atom sees its own periodic images
copper = build_graph(bulk("Cu"), cutoff=5.0)
lengths = edge_vectors(copper).norm(dim=1)
print(f"copper: {copper.num_nodes} atom, {copper.num_edges} neighbours, nearest at {lengths.min():.3f} Å")

# many structures are one batch; `batch` names the structure of each node
both = build_graph([molecule("H2O"), molecule("CH4"), bulk("NaCl", "rocksalt", a=5.64)], cutoff=4.0)
print(f"batch: {both.num_graphs} structures, nodes of each: {both.ptr.diff().tolist()}")

# nothing is lost on the way back
again = graph_to_atoms(copper)[0]
assert again.get_chemical_formula() == "Cu"
assert again.pbc.all()
