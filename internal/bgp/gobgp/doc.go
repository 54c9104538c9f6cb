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
// A path that BFD finds lost takes its session down at once. When BFD stops for
// another reason the other end is told AdminDown, which by RFC 5882 is no
// failure; FRR 8.4 takes it for one, so whoever removes BFD from a running
// session removes it on the router first.
//
// # Goroutines
//
//	who starts it    what it does                                  what ends it
//	Peering.Run      (its caller's) starts, replaces, ends sessions   its context
//	Peering.Run      session: dials, holds the link, backs off        Run, or a Set without the peer
//	session          guard.WatchNeighbor, for a peer by interface     the session
//	session          guard.Link.Run, for an established connection   the connection
//	session          makes the first table while it dials            the table, or failure
//	session          udp.Monitor.Watch, for a peer with BFD          the connection
//	newTable         guard.Backend.Run, one for each table             the table
//	Peering.Run      udp.Monitor.Run, once a peer wants BFD          Run
//	newTable         gobgp's Serve, one for each server               never: a server that
//	                 is done with waits in a pool for the next session
//	gobgp            five for each server in use                      the table
//	gobgp            takes the connection of the guard                guard.Backend.Greet
package gobgp
