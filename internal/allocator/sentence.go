package allocator

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// listed is how many names a sentence lists before it counts the rest
// (docs/design/bounds.md).
const listed = 5

// Sentence says what the decision is and, when something is wanting, what an
// operator can do about it.
func (d Decision) Sentence() string {
	held := d.holdings()
	switch {
	case d.Reason == Allocated:
		return held
	case d.Reason == Kept || d.Reason == Orphaned:
		return held + "; " + d.Detail.keptReason()
	case d.Reason == ForeignAddress:
		return d.Detail.shown() + "; " + Decision{Service: d.Service, Reason: d.Detail.Cause, Detail: d.Detail}.cause()
	case d.Reason == PartialDualStack:
		return fmt.Sprintf("%s; no %s address yet: %s", held, d.Detail.Family, d.cause())
	case held == "":
		return d.cause()
	case d.Detail.Reallocate:
		return fmt.Sprintf("holds %s; no other address to move to: %s", held, d.cause())
	default:
		return fmt.Sprintf("holds %s; %s", held, d.cause())
	}
}

// holdings lists the addresses and where they are from.
func (d Decision) holdings() string {
	switch a := d.Assignments; {
	case len(a) == 0:
		return ""
	case len(a) == 2 && a[0].Pool == a[1].Pool:
		return fmt.Sprintf("%s and %s%s", a[0].Address, a[1].Address, fromPool(a[0].Pool))
	case len(a) == 2:
		return fmt.Sprintf("%s%s and %s%s", a[0].Address, fromPool(a[0].Pool), a[1].Address, fromPool(a[1].Pool))
	default:
		return a[0].Address.String() + fromPool(a[0].Pool)
	}
}

func fromPool(name string) string {
	if name == "" {
		return ""
	}
	return " from pool " + name
}

func (d *Detail) keptReason() string {
	const move = "; to move the Service, give belfry.dev/reallocate a new value"
	switch d.KeptReason {
	case KeptGone:
		if d.Pool == "" {
			return fmt.Sprintf("no pool covers %s", d.Address) + move
		}
		return fmt.Sprintf("pool %s does not exist any more", d.Pool) + move
	case KeptDeleting:
		return fmt.Sprintf("pool %s is being deleted and waits for this Service", d.Pool) + move
	case KeptShrunk:
		return fmt.Sprintf("pool %s no longer covers %s", d.Pool, d.Address) + move
	case KeptLost:
		return fmt.Sprintf("pool %s hands out %s no more and keeps it for this Service", d.Pool, d.Address) + move
	case KeptDrains:
		return fmt.Sprintf("pool %s drains", d.Pool) + move
	case KeptRestricted:
		return fmt.Sprintf("pool %s no longer admits this Service", d.Pool) + move
	case KeptNode:
		return fmt.Sprintf("node %s has the address %s too, so it is not announced", d.Node, d.Address) + move
	default:
		return "" // NotKept has nothing to say
	}
}

// shown says what of the status is not ours.
func (d *Detail) shown() string {
	var all []string
	for _, s := range d.Shown {
		if s.Node != "" {
			s.Text += " of node " + s.Node
		}
		all = append(all, s.Text)
	}
	return fmt.Sprintf("status shows %s, not given and so not announced by Belfry, until a pool can give an address instead", strings.Join(all, ", "))
}

// cause says why something is wanting.
func (d Decision) cause() string {
	t := d.Detail
	switch d.Reason {
	case PoolNotFound:
		return fmt.Sprintf("pool %s does not exist", t.Pool)
	case NotPermitted:
		if t.Pool == "" {
			return fmt.Sprintf("serviceAllocation of the pool that has %s does not admit this Service", t.Address)
		}
		return "serviceAllocation of the requested pool does not admit this Service"
	case AddressNotInPool:
		switch {
		case t.Owner == "" && t.Pool != "":
			return fmt.Sprintf("%s is not in the requested pool %s", t.Address, t.Pool)
		case t.Owner == "":
			return fmt.Sprintf("no pool contains %s", t.Address)
		case t.Pool != "" && t.Pool != t.Owner:
			return fmt.Sprintf("%s is in pool %s, not in the requested pool %s", t.Address, t.Owner, t.Pool)
		default:
			return fmt.Sprintf("pool %s has avoidBuggyIPs and does not hand out %s", t.Owner, t.Address)
		}
	case AddressInUse:
		if t.Clash == ClashExternal {
			by := "a Service of another namespace"
			if t.Holder != (lb.ServiceKey{}) {
				by = t.Holder.String()
			}
			return fmt.Sprintf("%s is in spec.externalIPs of %s", t.Address, by)
		}
		if t.Holder == (lb.ServiceKey{}) {
			return fmt.Sprintf("%s is in use by another namespace, or reserved for one; "+
				"sharing takes a pool with sharedAcrossNamespaces, one belfry.dev/allow-shared-ip, and other ports", t.Address)
		}
		return fmt.Sprintf("%s is in use by %s; to share it, give both Services the same belfry.dev/allow-shared-ip",
			t.Address, t.Holder)
	case AddressReserved:
		return fmt.Sprintf("%s is reserved for %s until %s", t.Address, t.Holder, t.Until.UTC().Format(time.RFC3339))
	case NodeAddress:
		return fmt.Sprintf("%s is an address of node %s", t.Address, t.Node)
	case SharingConflict:
		return fmt.Sprintf("%s cannot be shared with %s: %s", t.Address, t.Holder, t.Clash.sentence(t.Port))
	case Draining:
		if len(t.Pools) == 0 {
			return fmt.Sprintf("pool %s: drains and hands out nothing new", t.Owner)
		}
	case BadRequest:
		if len(t.Problems) == 0 {
			return fmt.Sprintf("the requested address %s is %s, but the Service has no %s cluster IP", t.Address, t.Family, t.Family)
		}
		return strings.Join(t.Problems, "; ")
	case WaitingForClusterIP:
		return "the Service has not all of its cluster IPs yet"
	case Headless:
		return "a headless Service (clusterIP None) has no load balancer address"
	case NotOurs:
		return "the Service is not served by this controller any more"
	}
	return t.pools(d.Service.Namespace)
}

// pools says of the first pools why they would not do, and which could be asked for.
func (d *Detail) pools(namespace string) string {
	switch {
	case d.NoPools:
		return "there is no IPAddressPool; create one"
	case d.Both && len(d.Asked) > 0:
		return fmt.Sprintf("it needs an IPv4 and an IPv6 address together, %s among them, and not both are free", addresses(d.Asked))
	case d.Both:
		return "it needs an IPv4 and an IPv6 address together, and not both are free"
	}
	var parts []string
	for _, v := range d.Pools {
		parts = append(parts, v.sentence(d.Family, namespace))
	}
	if d.MorePools > 0 {
		parts = append(parts, fmt.Sprintf("and %d more pools", d.MorePools))
	}
	if len(parts) == 0 {
		parts = append(parts, fmt.Sprintf("no pool serves this Service with %s unasked", d.Family))
	}
	if len(d.Unasked) > 0 {
		names := strings.Join(d.Unasked, ", ")
		if d.MoreUnasked > 0 {
			names += fmt.Sprintf(" and %d more", d.MoreUnasked)
		}
		parts = append(parts, "pools it could ask for by belfry.dev/address-pool: "+names)
	}
	return strings.Join(parts, "; ")
}

func addresses(all []netip.Addr) string {
	var texts []string
	for _, a := range all {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, " and ")
}

func (v PoolRefusal) sentence(f lb.Family, namespace string) string {
	switch v.Reason {
	case LimitReached:
		return fmt.Sprintf("pool %s: namespace %s holds %d addresses and perNamespaceLimit is %d", v.Pool, namespace, v.Held, v.Limit)
	case Draining:
		return fmt.Sprintf("pool %s: drains and hands out nothing new", v.Pool)
	case FamilyUnavailable:
		return fmt.Sprintf("pool %s: has no %s addresses", v.Pool, f)
	}
	switch {
	case v.Total == 0 && v.Nodes > 0:
		return fmt.Sprintf("pool %s: all of its %s addresses are Nodes' own", v.Pool, f)
	default:
		return fmt.Sprintf("pool %s: 0 of %d %s addresses free", v.Pool, v.Total, f)
	}
}

// sentence says why an address cannot be shared with another Service.
func (c Clash) sentence(port lb.Port) string {
	switch c {
	case ClashKey:
		return "it has another belfry.dev/allow-shared-ip, or none"
	case ClashPort:
		return fmt.Sprintf("%s port %d is taken", port.Protocol, port.Number)
	case ClashTrafficPolicy:
		return "its externalTrafficPolicy differs"
	default:
		return "externalTrafficPolicy Local needs identical selectors"
	}
}

// Sentence says what is given up and why.
func (r Release) Sentence() string {
	what := "released " + r.Address.String() + fromPool(r.Pool) + ": "
	switch r.Cause {
	case Requested:
		return what + "the Service asks for another"
	case Reallocated:
		return what + "belfry.dev/reallocate asks for a fresh one"
	case Reassigned:
		return what + "the pool no longer covers it and reassigns orphans"
	case FamilyDropped:
		return what + "the Service has no use for it"
	case LostToOlder:
		return what + r.holder() + " is older and holds it too"
	case GivenAway:
		return what + "another writer had taken it out of the status, and " + r.holder() + " has it now"
	case NeverGiven:
		return what + "another writer put it into the status, and it is the address of " + r.holder()
	case SharingEnded:
		return fmt.Sprintf("%sas it is now it cannot be shared with %s: %s", what, r.holder(), r.Clash.sentence(r.Port))
	default:
		return what + "the Service is not served any more"
	}
}

func (r Release) holder() string {
	if r.Holder == (lb.ServiceKey{}) {
		return "a Service of another namespace"
	}
	return r.Holder.String()
}
