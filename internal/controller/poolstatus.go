package controller

import (
	"maps"
	"math"
	"net/netip"
	"slices"

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
	verdict config.Verdict
	orphans []v1beta1.OrphanedAddress
}

// status makes the status, keeping the times of what has not changed.
func (r poolReport) status(was v1beta1.IPAddressPoolStatus) v1beta1.IPAddressPoolStatus {
	out := v1beta1.IPAddressPoolStatus{
		Conditions: kube.SetCondition(was.Conditions, r.verdict.Condition()),
		IPv4:       addressCount(r.decision.V4),
		IPv6:       addressCount(r.decision.V6),
		Orphans:    r.orphans[:min(len(r.orphans), v1beta1.MaxOrphans)],
	}
	for _, p := range ranges.Prefixes(r.served, v1beta1.MaxStatusAddresses) {
		out.Addresses = append(out.Addresses, p.String())
	}
	for _, f := range r.decision.Freed[max(0, len(r.decision.Freed)-v1beta1.MaxFreed):] {
		e := v1beta1.FreedAddress{Address: f.Address.String(), Time: metav1.NewTime(f.At)}
		if f.Service != (lb.ServiceKey{}) {
			e.Service = f.Service.String()
		}
		out.Freed = append(out.Freed, e)
	}
	return out
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
