// Package announce decides who announces which address, and says why for
// everybody who does not.
//
// It decides in two steps. The first needs nothing but configuration: which
// advertisements select an address, which nodes those select, which nodes are
// fit to take traffic, where the endpoints are ([Index]). The controller asks
// only this one, to tell a Service that no node could ever announce it. The
// second adds what changes in milliseconds, the live members of the gossip and
// their interfaces, and elects one owner per address ([Decide]); every speaker
// asks it and reaches the same answer from the same input, without a word to
// the API server.
//
// The unit is the address, not the Service: Services that share one are
// announced together or not at all, so an advertisement must select each of
// them. An address belongs to the pool it came from (lb.Service.AssignedPools),
// also when that pool no longer covers it or does not exist any more: an edit
// never cuts an address in use.
//
// Most addresses of a cluster are selected by the same advertisements. What
// depends on those alone is computed once per such class of addresses, which
// keeps the whole near linear in addresses.
package announce
