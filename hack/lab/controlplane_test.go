package lab_test

import (
	"strings"
	"testing"

	"github.com/belfrylb/belfry/hack/lab"
)

func TestControlPlaneAloneServesTheAPI(t *testing.T) {
	l := lab.Start(t, lab.Options{ControlPlaneOnly: true})
	out, err := l.Cluster.Kubectl(t.Context(), "create", "service", "loadbalancer", "web", "--tcp=80")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "service/web created") {
		t.Errorf("kubectl printed %q", out)
	}
	writes, err := l.Cluster.Audit(0, func(e lab.AuditEvent) bool { return e.Writes() && e.ObjectRef.Name == "web" })
	if err != nil {
		t.Fatal(err)
	}
	if len(writes) != 1 || writes[0].Verb != "create" || writes[0].User.Username != "admin" {
		t.Errorf("the audit log has %v, want one create by admin", writes)
	}
}
