package objects

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"

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
	_, missing := s.Patch(w, AllParts, metav1.Time{})
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
				_, _ = h.Write([]byte(k + "\x00" + texts[k] + "\x00"))
			}
		}
	}
	return h.Sum64()
}
