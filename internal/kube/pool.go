package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/placement"
)

// FinalizerInUse keeps a pool that is deleted until no Service holds an address
// of it any more.
const FinalizerInUse = "belfry.dev/in-use"

// WritePoolStatus makes a pool's status say what it should. The leader alone
// writes it, so whatever version the pool has will do.
func (c *Cluster) WritePoolStatus(ctx context.Context, p *v1beta1.IPAddressPool, status v1beta1.IPAddressPoolStatus) (Outcome, error) {
	if equality.Semantic.DeepEqual(p.Status, status) {
		return Unchanged, nil
	}
	// A merge patch removes what is null and keeps what it does not name: name every
	// field.
	return c.patchPool(ctx, p, object{
		"metadata": object{"uid": p.UID},
		"status": object{
			"conditions": orNull(status.Conditions), "addresses": orNull(status.Addresses),
			"ipv4": everyCount(status.IPv4), "ipv6": everyCount(status.IPv6),
			"orphans": orNull(status.Orphans), "freed": orNull(status.Freed),
		},
	}, "status")
}

// everyCount names the counts that are zero, too, which their JSON leaves out.
func everyCount(c *v1beta1.AddressCount) any {
	if c == nil {
		return nil
	}
	return object{
		"total": c.Total, "assigned": c.Assigned, "available": c.Available, "reserved": c.Reserved, "orphaned": c.Orphaned,
	}
}

// orNull makes an absent list of an empty one.
func orNull[T any](list []T) any {
	if len(list) == 0 {
		return nil
	}
	return list
}

// NeedsFinalizer reports whether a pool's finalizer must come or go.
func NeedsFinalizer(p *v1beta1.IPAddressPool, inUse bool) bool {
	if inUse && p.DeletionTimestamp != nil {
		return false // what is being deleted takes no new finalizer
	}
	return slices.Contains(p.Finalizers, FinalizerInUse) != inUse
}

// SetPoolInUse puts the finalizer on a pool, or takes it off.
func (c *Cluster) SetPoolInUse(ctx context.Context, p *v1beta1.IPAddressPool, inUse bool) (Outcome, error) {
	if !NeedsFinalizer(p, inUse) {
		return Unchanged, nil
	}
	finalizers := slices.DeleteFunc(slices.Clone(p.Finalizers), func(f string) bool { return f == FinalizerInUse })
	if inUse {
		finalizers = append(finalizers, FinalizerInUse)
	}
	// The list is replaced, so it must be the one that was read.
	return c.patchPool(ctx, p, object{
		"metadata": object{"uid": p.UID, "resourceVersion": p.ResourceVersion, "finalizers": finalizers},
	})
}

func (c *Cluster) patchPool(ctx context.Context, p *v1beta1.IPAddressPool, patch object, subresources ...string) (Outcome, error) {
	body, err := json.Marshal(patch)
	if err != nil {
		return Refused, fmt.Errorf("patch of pool %s: %w", p.Name, err)
	}
	answer, err := c.own.IPAddressPools().Patch(ctx, p.Name, types.MergePatchType, body, metav1.PatchOptions{}, subresources...)
	if err != nil {
		return classify(err), fmt.Errorf("write pool %s: %w", p.Name, err)
	}
	return Done, c.pools.Answer(answer)
}

// SamePoolStatus reports whether two statuses of a pool say the same.
func SamePoolStatus(a, b v1beta1.IPAddressPoolStatus) bool { return equality.Semantic.DeepEqual(a, b) }

// SetCondition returns an object's conditions with one of them set. Its time
// stays while its status does; the given conditions are not changed.
func SetCondition(conditions []metav1.Condition, want metav1.Condition) []metav1.Condition {
	out := slices.Clone(conditions)
	want.Message = objects.Cut(want.Message, objects.MaxMessage)
	want.LastTransitionTime = metav1.Now().Rfc3339Copy()
	i := slices.IndexFunc(out, func(c metav1.Condition) bool { return c.Type == want.Type })
	if i < 0 {
		return append(out, want)
	}
	if out[i].Status == want.Status {
		want.LastTransitionTime = out[i].LastTransitionTime
	}
	out[i] = want
	return out
}

// Rebalancing returns which rebalancing of an advertisement is asked for, and
// how far it has come by its status.
func (c *Cluster) Rebalancing(advertisement string) (token string, p placement.Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.l2ads.rows[name{Name: advertisement}]
	if r == nil {
		return "", p
	}
	if s := r.value.Status.Rebalance; s != nil {
		p = placement.Progress{Token: s.Token, Left: int(s.Remaining)}
	}
	return objects.RebalanceToken(r.value.Annotations), p
}
