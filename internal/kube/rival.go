package kube

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/objects"
)

// Rival says who else writes the status of a Service: a field manager, or another
// installation of ours. It is read anew, since what is mirrored leaves managers out.
func (c *Cluster) Rival(ctx context.Context, s objects.Service) string {
	if namespace, other := s.RecordedBy(); other {
		return "the installation of Belfry in namespace " + namespace
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
	return "field manager " + objects.Cut(strings.ToValidUTF8(best.Manager, "?"), 128)
}
