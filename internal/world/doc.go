// Package world joins the objects of a cluster into all that decisions depend on, and
// says what follows from them: how things stand ([World.Status]), how an address came
// about ([World.Explain]), and what an edit, a drained node or a lost one would change
// ([Compare]).
//
// It decides nothing of its own. [World.Settle] runs the allocator, placement, the
// election and BGP's decision of every node, as the controller and the speakers do,
// until nothing changes any more: it is where the cluster goes if nothing else happens.
// A plan is the difference of two such ends.
//
// What cannot be read from objects it does not know: whether a router accepts a route,
// or a probe finds a foreign station. Where the speakers report, who announces is what
// they say; where none does, it is what configuration has them do.
package world
