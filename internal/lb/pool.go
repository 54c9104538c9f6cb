package lb

import (
	"net/netip"
	"slices"
	"time"
)

// An AddressRange is an inclusive range of addresses of one family.
type AddressRange struct{ First, Last netip.Addr }

// Contains reports whether a lies in the range.
func (r AddressRange) Contains(a netip.Addr) bool {
	return FamilyOf(a) == FamilyOf(r.First) && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// String returns "first-last", or the address alone when there is one only.
func (r AddressRange) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// An OrphanPolicy says what becomes of an address in use that its pool no
// longer covers.
type OrphanPolicy uint8

// Orphan policies.
const (
	// OrphanKeep keeps the address where it is (the default).
	OrphanKeep OrphanPolicy = iota
	// OrphanReassign releases it and allocates anew.
	OrphanReassign
)

// A Strategy chooses among the free addresses of a pool.
type Strategy uint8

// Strategies.
const (
	// LeastRecentlyUsed lets a freed address rest longest (the default).
	LeastRecentlyUsed Strategy = iota
	// FirstFree takes the lowest free address.
	FirstFree
	// Hash derives the address from the Service's name, so that the same name
	// tends to get the same address.
	Hash
)

// A Pool is a compiled IPAddressPool.
type Pool struct {
	Name    string
	Created time.Time
	Labels  map[string]string
	// Ranges are the addresses that the pool may hand out: its own, less the
	// excluded ones and less those in Lost. They are sorted, disjoint and not
	// adjacent, and no other pool has them.
	Ranges []AddressRange
	// Lost are the addresses that another pool hands out although they are this
	// pool's too (package origin says which pool does). What this pool gave of them
	// stays its own.
	Lost []AddressRange
	// Records are addresses that the pool gave and that none of its ranges covers
	// any more, as its status has them.
	Records []netip.Addr
	// AvoidBuggyIPs skips IPv4 addresses that end in .0 and .255.
	AvoidBuggyIPs bool
	// AutoAssign permits use without being asked for.
	AutoAssign bool
	// Allocation restricts who may use the pool; nil does not restrict it.
	Allocation *ServiceAllocation
	// SharedAcrossNamespaces permits Services of different namespaces to share
	// an address of the pool.
	SharedAcrossNamespaces bool
	Orphans                OrphanPolicy
	Strategy               Strategy
	// Retention keeps an address reserved for its last Service this long.
	Retention time.Duration
	// Drain hands out nothing new.
	Drain bool
	// Deleting is set once the pool is being deleted; implies Drain.
	Deleting bool
	// Freed are the addresses that were freed, oldest first: what Retention and
	// LeastRecentlyUsed remember.
	Freed []FreedAddress
}

// A FreedAddress remembers who held an address last, and until when.
type FreedAddress struct {
	Address netip.Addr
	// Service is zero when it moved away of its own accord: retention keeps
	// nothing for it then.
	Service ServiceKey
	At      time.Time
}

// A ServiceAllocation restricts a pool to some Services.
type ServiceAllocation struct {
	// Priority orders the pools that select a Service: smaller wins, 0 is last.
	Priority int
	// Namespaces and NamespaceSelectors are or-ed. Both empty: every namespace.
	Namespaces         []string
	NamespaceSelectors []Selector
	// ServiceSelectors are or-ed, and and-ed with the namespaces. Empty: every
	// Service.
	ServiceSelectors []Selector
	// PerNamespaceLimit is the most addresses of the pool in one namespace; 0
	// is no limit.
	PerNamespaceLimit int
}

// A Scope is what an advertisement selects, of whichever protocol.
type Scope struct {
	// Pools and PoolSelectors choose pools, or-ed. Both empty: every pool.
	Pools         []string
	PoolSelectors []Selector
	// ServiceSelectors are or-ed. Empty: every Service.
	ServiceSelectors []Selector
	// NodeSelectors are or-ed. Empty: every node.
	NodeSelectors []Selector
}

// SelectsPool reports whether a pool of this name with these labels is in the scope.
func (s Scope) SelectsPool(name string, labels map[string]string) bool {
	return len(s.Pools)+len(s.PoolSelectors) == 0 || slices.Contains(s.Pools, name) || MatchesAny(s.PoolSelectors, labels)
}

// SelectsNode reports whether a node with these labels is in the scope.
func (s Scope) SelectsNode(labels map[string]string) bool { return Selected(s.NodeSelectors, labels) }

// An L2Advertisement is a compiled L2Advertisement object.
type L2Advertisement struct {
	Name    string
	Created time.Time
	Scope
	// PreferredNodes weigh nodes in placement.
	PreferredNodes []NodePreference
	// Interfaces are names or globs (path.Match). Empty: every usable one.
	Interfaces []string
	// ExcludeInterfaces are names or globs; exclusion wins.
	ExcludeInterfaces []string
	Failback          Failback
	ConflictPolicy    ConflictPolicy
}

// A NodePreference adds Weight (1-100) to the nodes that match.
type NodePreference struct {
	Weight     int
	Preference Selector
}

// A Failback says whether an address returns to its placed node by itself.
type Failback uint8

// Failback modes.
const (
	FailbackNever Failback = iota
	FailbackImmediate
)

// A ConflictPolicy says what to do when a foreign station uses one of our addresses.
type ConflictPolicy uint8

// Conflict policies.
const (
	ConflictWithhold ConflictPolicy = iota
	ConflictDefend
	ConflictIgnore
)
