// Package layer2 holds what announcing addresses by ARP and Neighbor Discovery
// has to decide: which questions to answer ([Table]), what a foreign station's frame
// says about our addresses ([Heard]), when to announce without being asked
// ([Schedule]), and whether an address is in use before it is claimed for the
// first time ([Detection]).
//
// Nothing here touches a socket or a clock. Frames come in as the few fields
// that matter, time comes in as an argument, and what is to be sent comes out
// as a value; internal/layer2/link does the rest.
//
// # What others do, and what this does instead
//
// An announcer that walks its Services for every ARP request pays for all of
// them on each broadcast of the segment. Here a question costs one look into an
// immutable hash table, whatever its size, and takes no lock: the table is
// replaced, never changed.
//
// An announcer that sends its gratuitous packets in a loop per address floods
// the segment exactly when it can bear it least, after a failure. Here every
// packet of an interface passes one budget, and an address that no one has
// heard of yet goes before the repetition of one that everybody has.
package layer2
