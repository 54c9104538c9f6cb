// Package gobgp holds a node's BGP sessions. It is the only importer of
// github.com/osrg/gobgp/v3.
//
// What gobgp is here for is its table and its UPDATEs: which paths a peer has
// been told, how attributes are written for an internal or external peer, with
// two or four octets of AS, how prefixes are packed. Each session has a server
// of its own, so that its table is exactly what that peer should hear and needs
// no export policy, and talks to it through internal/bgp/guard, so that nothing
// a router sends can reach gobgp's parser.
//
// # Goroutines
//
//	who starts it    what it does                                  what ends it
//	Peering.Run      (its caller's) starts, replaces, ends sessions   its context
//	Peering.Run      session: dials, holds the link, backs off        Run, or a Set without the peer
//	session          guard.WatchNeighbor, for a peer by interface     the session
//	session          guard.Inner.Run, one for each table              the table
//	newTable         gobgp's Serve, one for each server               never: a server that
//	                 is done with waits in a pool for the next session
//	gobgp            five for each server in use                      the table
package gobgp
