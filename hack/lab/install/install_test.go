package install_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/hack/lab/install"
)

func TestItInstallsServesAndIsRemovedOnRealNodes(t *testing.T) {
	lab.Require(t, lab.Options{Containers: true})
	if why := lab.UnableFRR(); why != nil && os.Getenv("BELFRY_LAB") != "required" {
		t.Skipf("SKIPPED, NOT PASSED: %v", why)
	}
	var out strings.Builder
	err := install.Run(t.Context(), install.Options{Short: true, Out: &out})
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	rest := out.String()
	for _, next := range []string{
		"$ kubectl apply --server-side -f manifests/belfry.yaml", "all is ready",
		"$ kubectl expose deployment web",
		"$ curl http://198.51.100.2", "pod=web-",
		"$ curl http://[2001:db8:51::2", "pod=web-",
		"$ curl http://203.0.113.", "pod=web-", "the router spreads 203.0.113.",
		"$ curl http://[2001:db8:113::", "pod=web-", "the router spreads 2001:db8:113::",
		"$ kubectl rollout restart daemonset/belfry-speaker", "0 unanswered", "0 lost", "0 unanswered", "0 lost", "203.0.113.", "0 lost", "2001:db8:113::", "0 lost",
		"$ kubectl -n belfry-system delete daemonset belfry-speaker", "--lb-class=belfry.dev/none", "$ kubectl delete -f manifests/belfry.yaml",
		"nothing in the cluster names belfry any more",
		"all is well",
	} {
		_, after, found := strings.Cut(rest, next)
		if !found {
			t.Fatalf("it does not say %q after what went before", next)
		}
		rest = after
	}
	_, name, _ := strings.Cut(out.String(), "lab bf")
	name = "bf" + name[:4]
	for _, pattern := range []string{"/sys/fs/cgroup/" + name + "-*", "/sys/fs/cgroup/*/" + name + "-*", "/run/netns/" + name + "-*", lab.StateDir() + "/" + name} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), name) {
		t.Errorf("mounts are left behind:\n%s", mounts)
	}
}
