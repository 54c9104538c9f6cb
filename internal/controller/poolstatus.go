package controller

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/ranges"
)

// A poolReport is all that a pool's status is made of.
type poolReport struct {
	decision allocator.PoolDecision
	// served are the addresses that the pool may hand out.
	served  []lb.AddressRange
	finding config.Finding
	orphans []v1beta1.OrphanedAddress
	// retention is how long a freed address is kept for its Service, and now the time.
	retention time.Duration
	now       time.Time
}

// How many bytes of JSON the lists of a pool's status have at most. With them it stays
// below 16 KiB whatever Services come and go, since each change of it goes to every node
// (docs/design/bounds.md).
const (
	addressesRoom = 2 << 10
	orphansRoom   = 3584
	freedRoom     = 8 << 10
	// namedOrphans and namedFreed are how many entries name their Service although
	// nothing depends on it; of what was freed, the latest.
	namedOrphans = 8
	namedFreed   = 16
	// togetherFreed is how exactly it is told when the rest was freed.
	togetherFreed = 10 * time.Minute
)

// status makes the status, keeping the times of what has not changed.
func (r poolReport) status(was v1beta1.IPAddressPoolStatus) v1beta1.IPAddressPoolStatus {
	out := v1beta1.IPAddressPoolStatus{
		Conditions: kube.SetCondition(was.Conditions, r.finding.Condition()),
		IPv4:       addressCount(r.decision.V4),
		IPv6:       addressCount(r.decision.V6),
		Orphans:    briefOrphans(r.orphans),
		Freed:      r.briefJournal(),
	}
	for _, p := range ranges.Prefixes(r.served, v1beta1.MaxStatusAddresses) {
		out.Addresses = append(out.Addresses, p.String())
	}
	out.Addresses = fitting(out.Addresses, addressesRoom, func(p string) int { return len(p) + len(`"",`) })
	return out
}

// fitting returns the first elements that have room.
func fitting[T any](all []T, room int, size func(T) int) []T {
	for i, e := range all {
		if room -= size(e); room < 0 {
			return all[:i]
		}
	}
	return all
}

// briefOrphans lists the first orphans each with its Service, and the rest by block.
func briefOrphans(all []v1beta1.OrphanedAddress) []v1beta1.OrphanedAddress {
	out := slices.Clone(all[:min(len(all), namedOrphans)])
	var rest []netip.Addr
	for _, o := range all[len(out):] {
		rest = append(rest, netip.MustParseAddr(o.Address))
	}
	for _, block := range ranges.Format(rest) {
		out = append(out, v1beta1.OrphanedAddress{Address: block})
	}
	return fitting(out, orphansRoom, func(o v1beta1.OrphanedAddress) int {
		return len(`{"address":"","service":""},`) + len(o.Address) + len(o.Service)
	})
}

// briefJournal lists what was freed: what is kept for a Service before what is not, and the
// latest of each before the rest. The result is ordered by time, and what it says is
// listed alike when it has been read back.
func (r poolReport) briefJournal() []v1beta1.FreedAddress {
	var kept, named []v1beta1.FreedAddress
	var rest []lb.FreedAddress
	entry := func(f lb.FreedAddress) v1beta1.FreedAddress {
		e := v1beta1.FreedAddress{Address: f.Address.String(), Time: metav1.NewTime(f.At)}
		if f.Service != (lb.ServiceKey{}) {
			e.Service = f.Service.String()
		}
		return e
	}
	for _, f := range slices.Backward(r.decision.Freed) { // the latest first
		switch {
		case f.Service != lb.ServiceKey{} && r.now.Before(f.At.Add(r.retention)):
			kept = append(kept, entry(f))
		case len(named) < namedFreed:
			named = append(named, entry(f))
		default:
			f.At = f.At.Truncate(togetherFreed)
			rest = append(rest, f)
		}
	}
	all := append(kept, named...)
	for len(rest) > 0 {
		at := rest[0].At
		var together []netip.Addr
		for len(rest) > 0 && rest[0].At.Equal(at) {
			together = append(together, rest[0].Address)
			rest = rest[1:]
		}
		slices.SortFunc(together, netip.Addr.Compare)
		for _, block := range ranges.Format(together) {
			all = append(all, v1beta1.FreedAddress{Address: block, Time: metav1.NewTime(at)})
		}
	}
	all = fitting(all, freedRoom, func(f v1beta1.FreedAddress) int {
		return len(`{"address":"","service":"","time":"2006-01-02T15:04:05Z"},`) + len(f.Address) + len(f.Service)
	})
	slices.SortStableFunc(all, func(a, b v1beta1.FreedAddress) int {
		return cmp.Or(a.Time.Compare(b.Time.Time), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Service, b.Service))
	})
	return all
}

// addressCount is a count as the API has it, or nil for a family that the pool
// has nothing of.
func addressCount(c allocator.Count) *v1beta1.AddressCount {
	if c == (allocator.Count{}) {
		return nil
	}
	saturate := func(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
	return &v1beta1.AddressCount{
		Total: saturate(c.Total), Assigned: saturate(c.Assigned + c.Orphans), Available: saturate(c.Available),
		Reserved: saturate(c.Reserved), Orphaned: saturate(c.Orphans),
	}
}

// orphans lists the addresses held under a pool that it no longer covers,
// lowest first, each with the first of the Services that hold it.
func (l *loop) orphans(pool string) []v1beta1.OrphanedAddress {
	found := map[netip.Addr]lb.ServiceKey{}
	for key, s := range l.services {
		for _, a := range s.decision.Assignments {
			if first, seen := found[a.Address]; a.Orphan && a.Pool == pool && (!seen || key.Compare(first) < 0) {
				found[a.Address] = key
			}
		}
	}
	var out []v1beta1.OrphanedAddress
	for _, a := range slices.SortedFunc(maps.Keys(found), netip.Addr.Compare) {
		out = append(out, v1beta1.OrphanedAddress{Address: a.String(), Service: found[a].String()})
	}
	return out
}
