package allocator

import (
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Decision is what one Service is to hold from now on, and why. Its Reason
// and Detail describe the state that the decision leads to, so they stay the
// same when the decision has been carried out and is planned again.
type Decision struct {
	Service lb.ServiceKey
	// Assignments are the addresses to hold, primary family first.
	Assignments []Assignment
	Reason      Reason
	// Short is set when the Service holds less than its families require.
	Short bool
	// Detail has the facts behind any Reason but Allocated, which has none.
	Detail *Detail
	// Released are the addresses that the Service's status still shows and that
	// it gives up. They stay taken until the status shows them no more.
	Released []Release
	// Left are the addresses of the Service's status that are not ours. They stay there
	// until there is one of ours to put in their place, so there are none beside
	// Assignments.
	Left []netip.Addr
	// Reallocated is the token to record as honored.
	Reallocated string
	// Terms are those to record as what the Service shares its addresses on.
	Terms string
}

// An Assignment is one address that a Service holds.
type Assignment struct {
	Address netip.Addr
	// Pool is the pool that the address came from; empty when it is not known.
	Pool string
	// Orphan is set when that pool no longer covers the address, is being
	// deleted, or is gone.
	Orphan bool
}

// A Release is one address that a Service gives up.
type Release struct {
	Address netip.Addr
	Pool    string
	Cause   Cause
	// Holder is the Service of the same namespace that keeps the address (LostToOlder,
	// GivenAway, NeverGiven, SharingEnded); zero where it is one of another.
	Holder lb.ServiceKey
	// Clash says why the address cannot be shared with it, and Port on which port.
	Clash Clash
	Port  lb.Port
}

// Allocated reports whether the Service holds what its families require: an
// address, and for RequireDualStack one of each family.
func (d Decision) Allocated() bool {
	return len(d.Assignments) > 0 && !d.Short
}

// Apply returns the Service as it is once the decision is written to it. What it keeps
// stays where it is placed.
func (d Decision) Apply(s lb.Service) lb.Service {
	was := s
	s.Assigned, s.AssignedPools, s.Withdrawn = d.Left, nil, nil
	for _, a := range d.Assignments {
		s.Assigned = append(s.Assigned, a.Address)
		s.AssignedPools = append(s.AssignedPools, a.Pool)
	}
	s.Reallocated, s.Terms = d.Reallocated, d.Terms
	if was.Placed != nil && !slices.Equal(was.Assigned, s.Assigned) {
		s.Placed = nil
		for _, a := range s.Assigned {
			s.Placed = append(s.Placed, was.PlaceOf(a))
		}
	}
	return s
}

// Changes reports whether carrying the decision out changes what the Service's
// status holds. (A decision that changes nothing may still have news to tell.)
func (d Decision) Changes(s lb.Service) bool {
	after := d.Apply(s)
	return len(s.Withdrawn) > 0 || !slices.Equal(after.Assigned, s.Assigned) || after.Reallocated != s.Reallocated || after.Terms != s.Terms ||
		slices.ContainsFunc(s.Assigned, func(a netip.Addr) bool { return after.RecordOf(a) != s.RecordOf(a) })
}

// Equal reports whether two decisions say the same.
func (d Decision) Equal(o Decision) bool {
	return d.Service == o.Service && d.Reason == o.Reason && d.Short == o.Short && d.Reallocated == o.Reallocated && d.Terms == o.Terms &&
		slices.Equal(d.Assignments, o.Assignments) && slices.Equal(d.Released, o.Released) && slices.Equal(d.Left, o.Left) &&
		(d.Detail == o.Detail || d.Detail != nil && o.Detail != nil && d.Detail.equal(o.Detail))
}

// A Reason is why a Service holds what it holds, or does not. It is the reason
// of the Service's condition, so the list is part of the contract.
type Reason uint8

// Reasons. A Service whose request cannot be met carries the reason for that,
// whether it keeps an older address meanwhile or holds none.
const (
	// Allocated: it holds all it wants.
	Allocated Reason = iota
	// Kept: it holds all it wants, but its pool would not hand the address out
	// today: another pool does now, it drains, no longer admits the Service, or a Node
	// has the address.
	Kept
	// Orphaned: it holds all it wants, but a pool no longer covers an address.
	Orphaned
	// PartialDualStack: PreferDualStack has one family; the other is awaited.
	PartialDualStack
	// Exhausted: no address of the family is free.
	Exhausted
	// LimitReached: perNamespaceLimit is used up.
	LimitReached
	// Draining: the pool hands out nothing new.
	Draining
	// FamilyUnavailable: no pool in question has addresses of the family.
	FamilyUnavailable
	// NoPool: no pool serves the Service unasked.
	NoPool
	// PoolNotFound: the requested pool does not exist.
	PoolNotFound
	// NotPermitted: serviceAllocation does not admit the Service.
	NotPermitted
	// AddressNotInPool: the requested address is in no pool, or not in the
	// requested one.
	AddressNotInPool
	// AddressInUse: another Service holds the requested address.
	AddressInUse
	// AddressReserved: retention keeps the requested address for its last
	// Service.
	AddressReserved
	// NodeAddress: the requested address belongs to a Node.
	NodeAddress
	// SharingConflict: the requested address is shared, but not with this one.
	SharingConflict
	// BadRequest: the request contradicts itself or cannot be understood.
	BadRequest
	// ForeignAddress: the status shows what is not ours, and no address of ours can be
	// had to put in its place.
	ForeignAddress
	// WaitingForClusterIP: the cluster IPs, and so the families, are not known.
	WaitingForClusterIP
	// Headless: clusterIP is None.
	Headless
	// NotOurs: type, class or deletion took the Service from us.
	NotOurs
)

var reasons = [...]string{
	"Allocated", "Kept", "Orphaned", "PartialDualStack", "Exhausted", "LimitReached", "Draining", "FamilyUnavailable", "NoPool",
	"PoolNotFound", "NotPermitted", "AddressNotInPool", "AddressInUse", "AddressReserved", "NodeAddress", "SharingConflict",
	"BadRequest", "ForeignAddress", "WaitingForClusterIP", "Headless", "NotOurs",
}

// Reasons returns every reason, in order.
func Reasons() []Reason {
	all := make([]Reason, len(reasons))
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// String returns the reason as conditions and metrics spell it.
func (r Reason) String() string { return reasons[r] }

// Satisfied reports whether the Service has all it asks for.
func (r Reason) Satisfied() bool { return r <= Orphaned }

// Waiting reports whether the Service waits for something that may come by
// itself or by an operator's hand.
func (r Reason) Waiting() bool { return r >= PartialDualStack && r <= WaitingForClusterIP }

// A Cause is why an address is given up.
type Cause uint8

// Causes.
const (
	// Requested: the Service moved to the address or pool it asks for.
	Requested Cause = iota
	// Reallocated: a new belfry.dev/reallocate token asked for a fresh address.
	Reallocated
	// Reassigned: its pool no longer covers it, and reassigns orphans.
	Reassigned
	// FamilyDropped: the Service no longer wants that family, or holds another
	// of it.
	FamilyDropped
	// LostToOlder: an older Service holds the same address.
	LostToOlder
	// GivenAway: its status showed the address no more, and another Service was given
	// it meanwhile.
	GivenAway
	// NeverGiven: its status showed the address, but our record gives it to another
	// Service.
	NeverGiven
	// SharingEnded: it was edited, and can no longer share the address with those
	// who were not.
	SharingEnded
	// NoLongerServed: the Service became headless or is not ours any more.
	NoLongerServed
)

var causes = [...]string{"Requested", "Reallocated", "Reassigned", "FamilyDropped", "LostToOlder", "GivenAway", "NeverGiven", "SharingEnded", "NoLongerServed"}

// String returns the cause's name.
func (c Cause) String() string { return causes[c] }

// A Detail holds the facts behind a Reason; only those that the reason is about
// are set.
type Detail struct {
	// Reallocate is set when it is a fresh address that cannot be had.
	Reallocate bool
	// Family is the family that cannot be had.
	Family lb.Family
	// Address is the requested address.
	Address netip.Addr
	// Pool is the pool in question, or the requested one; Owner the pool that
	// has the requested address.
	Pool, Owner string
	// Pools says of the first pools that were tried why they would not do, in order;
	// MorePools counts the others.
	Pools     []PoolRefusal
	MorePools int
	// Unasked are the first pools with addresses of the family that the Service could
	// ask for, free or not; MoreUnasked counts the others.
	Unasked     []string
	MoreUnasked int
	// Both is set when it takes two addresses or none, and Asked are those of them
	// that it asks for.
	Both  bool
	Asked []netip.Addr
	// NoPools is set when there is no pool at all.
	NoPools bool
	// Holder is the Service of the same namespace that has the requested address, or
	// for which it is reserved; zero where it is one of another namespace.
	Holder lb.ServiceKey
	// Clash says why the address cannot be shared with it, and Port on which
	// port.
	Clash Clash
	Port  lb.Port
	// KeptReason is why the pool would not hand the address out again.
	KeptReason KeptReason
	// Until is when a reservation ends.
	Until time.Time
	// Node has the address for itself.
	Node string
	// Problems are those of the request, in words.
	Problems []string
	// Shown is the first of what the status shows that is not ours, and Cause why nothing can be
	// had in its place (ForeignAddress).
	Shown []Shown
	Cause Reason
}

// A Shown is something in a Service's status that is not ours: an address or a name.
type Shown struct {
	Text string
	// Node has the address; empty when no Node does.
	Node string
}

func (d *Detail) equal(o *Detail) bool {
	return d.Reallocate == o.Reallocate && d.Family == o.Family && d.Address == o.Address &&
		d.Pool == o.Pool && d.Owner == o.Owner && d.Clash == o.Clash && d.KeptReason == o.KeptReason && d.Port == o.Port && d.Until.Equal(o.Until) && d.Node == o.Node &&
		slices.Equal(d.Pools, o.Pools) && d.MorePools == o.MorePools && slices.Equal(d.Unasked, o.Unasked) && d.MoreUnasked == o.MoreUnasked &&
		d.Both == o.Both && slices.Equal(d.Asked, o.Asked) &&
		d.Holder == o.Holder && d.NoPools == o.NoPools && slices.Equal(d.Problems, o.Problems) &&
		d.Cause == o.Cause && slices.Equal(d.Shown, o.Shown)
}

// A PoolRefusal says why one pool would not do.
type PoolRefusal struct {
	Pool string
	// Reason is Exhausted, LimitReached, Draining or FamilyUnavailable.
	Reason Reason
	// Total is how many addresses of the family it has, less those of Nodes.
	Total uint64
	// Nodes is how many of its addresses are Nodes' own.
	Nodes int
	// Held is how many the namespace holds, without those that the Service gives
	// up, and Limit its perNamespaceLimit (LimitReached).
	Held, Limit int
}

// A Clash is why two Services cannot share an address.
type Clash uint8

// Clashes.
const (
	NoClash Clash = iota
	// ClashKey: the sharing keys differ, or one has none.
	ClashKey
	// ClashPort: both serve the same protocol and port.
	ClashPort
	// ClashTrafficPolicy: one is Cluster, the other Local.
	ClashTrafficPolicy
	// ClashSelector: both are Local and select different Pods.
	ClashSelector
	// ClashExternal: externalIPs of another Service name the address.
	ClashExternal
)

// A KeptReason is why a pool would not hand out again an address that it did.
type KeptReason uint8

// Reasons to keep one.
const (
	NotKept KeptReason = iota
	// KeptGone: the pool exists no more.
	KeptGone
	// KeptDeleting: it is being deleted.
	KeptDeleting
	// KeptShrunk: none of its ranges has the address any more.
	KeptShrunk
	// KeptLost: another pool hands out that part of its ranges now.
	KeptLost
	// KeptDrains: it hands out nothing new.
	KeptDrains
	// KeptRestricted: it no longer admits the Service.
	KeptRestricted
	// KeptNode: a Node has the address.
	KeptNode
)

// A PoolDecision is what a pool's status says: counts, and the free list.
type PoolDecision struct {
	Pool   string
	V4, V6 Count
	// InUse is set while a Service holds an address under this pool; the pool's
	// finalizer stays as long.
	InUse bool
	// Freed is the free list to record, oldest first.
	Freed []lb.FreedAddress
}

// A Count counts the addresses of one family. Counts saturate at
// math.MaxUint64.
type Count struct {
	// Total = Assigned + Available + Reserved, all within the pool's ranges.
	Total, Assigned, Available, Reserved uint64
	// Orphans are the addresses held under the pool that it no longer covers.
	Orphans uint64
}

// Equal reports whether two decisions say the same.
func (d PoolDecision) Equal(o PoolDecision) bool {
	return d.Pool == o.Pool && d.V4 == o.V4 && d.V6 == o.V6 && d.InUse == o.InUse &&
		slices.EqualFunc(d.Freed, o.Freed, func(a, b lb.FreedAddress) bool {
			return a.Address == b.Address && a.Service == b.Service && a.At.Equal(b.At)
		})
}

// A Result is what one planning decided.
type Result struct {
	// Services are sorted by key, Pools by name. [Plan] returns all of them; a
	// [Planner] those that were put or whose decision changed.
	Services []Decision
	Pools    []PoolDecision
	// Until is when a reservation ends and it is worth planning again; zero
	// when time alone changes nothing.
	Until time.Time
}
