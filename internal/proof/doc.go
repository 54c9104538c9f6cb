// Package proof finds out whether the segment agrees that an address is answered for
// by its owner, and by no other station. It is pure.
//
//	members, who claims what -> Witness: who asks for whose addresses
//	subjects -> Prover: when to ask for which, and what the answers mean
//	one question on one segment: Round
//
// An owner cannot hear itself as its clients do. So another node asks for the address
// by broadcast, as a client would, and takes in every answer, not only the first: the
// [Witness], the next node by name on the segment. What that one cannot hear is its own
// kernel. So the owner asks, too, and hears who else answers.
//
// # Never a false alarm
//
// While an address is handed over, two answer for a moment, or the asker has not heard
// yet whose it is. A result other than the expected one is nothing until a second round,
// a second later, has found the same of the same owner. Silence counts only if the
// owner's kernel answers for its own address in the same round: else it is the wire
// between the two that is silent.
//
// # What it costs
//
// An address is asked for after each acquisition and then rarely, within a budget that
// all askers of a segment share (docs/design/proof.md).
package proof
