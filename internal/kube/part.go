package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A Part is one of the things that we write to a Service. Others who write there may
// undo each by itself.
type Part uint8

// The parts.
const (
	// PartIngress are the addresses in status.
	PartIngress Part = iota
	// PartRecords are the condition Allocated and those that are our records.
	PartRecords
	// PartAnnounced is the condition Announced.
	PartAnnounced
	// PartAnnotations are those that tell of pool and place.
	PartAnnotations
	// NumParts is how many parts there are.
	NumParts
)

// Parts are a set of them.
type Parts uint8

// AllParts is the set of all.
const AllParts Parts = 1<<NumParts - 1

// Has reports whether a part is in the set.
func (s Parts) Has(p Part) bool { return s&(1<<p) != 0 }

// With returns the set with a part.
func (s Parts) With(p Part) Parts { return s | 1<<p }

// add puts a part into the set if so, and returns that.
func (s *Parts) add(p Part, so bool) bool {
	if so {
		*s = s.With(p)
	}
	return so
}

// Missing returns the parts of a write that a Service does not carry.
func (s *Service) Missing(w ServiceWrite) Parts {
	_, missing := s.patch(w, AllParts, metav1.Time{})
	return missing
}

// Digests returns a digest of each part of a write.
func (w ServiceWrite) Digests() (digests [NumParts]uint64) {
	digests[PartIngress] = digest(w.Addresses, w.Left)
	digests[PartRecords] = digest(w.Allocated, w.Pools, w.Reallocated, w.Placed, w.Moved, w.Terms)
	if w.Announced != nil {
		digests[PartAnnounced] = digest(*w.Announced)
	}
	digests[PartAnnotations] = digest(w.Pools, w.Placed)
	return digests
}

// Shown returns for each part a digest of what others decide about it: what the Service
// shows of it, and what its owner wrote.
func (s *Service) Shown() (digests [NumParts]uint64) {
	ingress, _ := json.Marshal(s.ingress)
	digests[PartIngress] = digest(s.Edition, s.Assigned, s.Withdrawn, ingress)
	digests[PartRecords] = digest(s.Edition, s.Allocated, s.recorded, s.reallocated, s.placed, s.moved, s.sharing)
	digests[PartAnnounced] = digest(s.Edition, s.Announced)
	digests[PartAnnotations] = digest(s.Edition, s.poolShown, s.placeShown)
	return digests
}

func digest(of ...any) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%v", of)
	return h.Sum64()
}

// edition returns a digest of what the owner of a Service writes: all but its status and
// our annotations.
func edition(s *corev1.Service) uint64 {
	h := fnv.New64a()
	spec, _ := s.Spec.Marshal() // which fails for no Service that was read
	_, _ = h.Write(spec)
	for _, texts := range []map[string]string{s.Labels, s.Annotations} {
		for _, k := range slices.Sorted(maps.Keys(texts)) {
			if k != AnnotationPool && k != AnnotationPlaced {
				_, _ = io.WriteString(h, k+"\x00"+texts[k]+"\x00")
			}
		}
	}
	return h.Sum64()
}

// Rival says who else writes the status of a Service: a field manager, or another
// installation of ours. It is read anew, since what is mirrored leaves managers out.
func (c *Cluster) Rival(ctx context.Context, s Service) string {
	if s.recorded != (Condition{}) && s.by != s.us {
		other := s.by
		if other == "" {
			other = defaultNamespace
		}
		return "the installation of Belfry in namespace " + other
	}
	found, err := c.core.Services(s.Key.Namespace).Get(ctx, s.Key.Name, metav1.GetOptions{})
	if err != nil {
		return unknownWriter
	}
	return rival(found.ManagedFields)
}

// unknownWriter is who has no name.
const unknownWriter = "another writer"

// ownManagers are the field managers that we are.
var ownManagers = []string{"belfry-controller", "belfry-speaker"}

// rival names the field manager that wrote a status besides us: who owns fields of
// status.loadBalancer before who owns others, then who wrote last.
func rival(managed []metav1.ManagedFieldsEntry) string {
	type owner struct {
		metav1.ManagedFieldsEntry
		ingress bool
	}
	var best *owner
	for _, m := range managed {
		if slices.Contains(ownManagers, m.Manager) || m.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Status map[string]json.RawMessage `json:"f:status"`
		}
		if json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields) != nil || fields.Status == nil {
			continue
		}
		is := owner{ManagedFieldsEntry: m}
		_, is.ingress = fields.Status["f:loadBalancer"]
		if best == nil || is.ingress && !best.ingress || is.ingress == best.ingress && best.Time.Before(is.Time) {
			best = &is
		}
	}
	if best == nil {
		return unknownWriter
	}
	return "field manager " + cut(strings.ToValidUTF8(best.Manager, "?"), 128)
}
