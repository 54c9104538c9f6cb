// Package membership tells which speakers live, and spreads what each says of
// itself: its usable interfaces and the addresses it answers for.
//
// It is an edge over hashicorp/memberlist. Everything it hears is handed to
// pure code: the codec, and election's suspicion machine.
package membership
