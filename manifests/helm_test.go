package manifests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/hack/lab/install"
)

// shell runs a script and returns what it printed.
func shell(t *testing.T, l *lab.Lab, script string) (string, error) {
	t.Helper()
	cmd, err := l.Cluster.Shell(t.Context(), script)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w:\n%s", err, out)
	}
	return string(out), err
}

// documented are commands of the install page. No Pods run here, so that nothing
// waits for them.
func documented(t *testing.T, heading string, n int) string {
	t.Helper()
	text, err := install.Commands("..", heading, n)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(text, " --wait", "")
}

// eventually waits for a fact.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30s: %s", what)
		}
	}
}

// older copies the chart as an older version of it: without a field of the pools,
// and by another version.
func older(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "belfry")
	if err := os.CopyFS(dir, os.DirFS("helm/belfry")); err != nil {
		t.Fatal(err)
	}
	edit := func(file string, change func(string) string) {
		file = filepath.Join(dir, file)
		before := read(t, file)
		after := change(before)
		if after == before {
			t.Fatalf("%s is as it was", file)
		}
		if err := os.WriteFile(file, []byte(after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	edit("Chart.yaml", func(s string) string { return strings.ReplaceAll(s, "0.1.0", "0.0.9") })
	edit("files/crds/belfry.dev_ipaddresspools.yaml", func(s string) string {
		return strings.ReplaceAll(s, "              drain:\n", "              drained:\n")
	})
	return dir
}

func TestHelmInstallsUpgradesAndUninstalls(t *testing.T) {
	l := lab.Start(t, lab.Options{ControlPlaneOnly: true})
	kubectl := func(args ...string) (string, error) { return l.Cluster.Kubectl(t.Context(), args...) }
	run := func(script string) string {
		t.Helper()
		out, err := shell(t, l, script)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	get := func(jsonpath string, what ...string) string {
		t.Helper()
		out, err := kubectl(append(append([]string{"get"}, what...), "--output=jsonpath="+jsonpath)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}

	// An older version, with a pool.
	run(strings.ReplaceAll(documented(t, "## With Helm", 0), "manifests/helm/belfry", older(t)))
	image := func() string {
		return get("{.spec.template.spec.containers[0].image}", "daemonset/belfry-speaker", "--namespace=belfry-system")
	}
	old := image()
	if !strings.HasSuffix(old, ":v0.0.9-dev") {
		t.Errorf("the older version's image is %s", old)
	}
	if err := l.Cluster.Apply(t.Context(), "apiVersion: belfry.dev/v1beta1\nkind: IPAddressPool\nmetadata: {name: edge}\nspec: {addresses: [203.0.113.0/24]}\n"); err != nil {
		t.Fatal(err)
	}
	drains := func() bool {
		out, err := kubectl("patch", "pool", "edge", "--type=merge", `--patch={"spec":{"drain":true}}`, "--dry-run=server", "--output=jsonpath={.spec.drain}")
		return err == nil && out == "true"
	}
	if drains() {
		t.Fatal("the older CRD knows the newer field: the test sees nothing")
	}

	// The upgrade changes the CRDs in place, and the programs by a value; the pool
	// stays what it is.
	uid := get("{.metadata.uid}", "pool", "edge")
	run(strings.TrimSuffix(documented(t, "## Upgrade", 1), "\n") + " --set log.level=debug,metrics.secure=false")
	eventually(t, "the CRD is upgraded", drains)
	if now := get("{.metadata.uid}", "pool", "edge"); now != uid {
		t.Errorf("the pool is another one: %s, was %s", now, uid)
	}
	if image() == old {
		t.Errorf("the image is still %s", old)
	}
	for _, what := range []string{"deployment/belfry-controller", "daemonset/belfry-speaker"} {
		args := get("{.spec.template.spec.containers[0].args}", what, "--namespace=belfry-system")
		if !strings.Contains(args, "--log-level=debug") || strings.Contains(args, "secure-metrics") {
			t.Errorf("arguments of %s: %s", what, args)
		}
	}

	// A value is kept by the next upgrade, and a wrong one changes nothing.
	upgrade := strings.TrimSuffix(documented(t, "## Upgrade", 1), "\n")
	if _, err := shell(t, l, upgrade+" --set log.level=loud"); err == nil || !strings.Contains(err.Error(), "level") {
		t.Errorf("a wrong value: %v", err)
	}
	run(upgrade)
	if args := get("{.spec.template.spec.containers[0].args}", "daemonset/belfry-speaker", "--namespace=belfry-system"); !strings.Contains(args, "--log-level=debug") {
		t.Errorf("the value is forgotten: %s", args)
	}

	// Without the release, the CRDs and what is of them are left, and nothing else.
	run("helm uninstall belfry --namespace belfry-system --wait")
	if now := get("{.metadata.uid}", "pool", "edge"); now != uid {
		t.Errorf("the pool did not outlive the release: %s, was %s", now, uid)
	}
	left, err := install.LeftBehind(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	crds := 0
	for _, line := range left {
		switch {
		case strings.HasPrefix(line, "CustomResourceDefinition /"):
			crds++
		case strings.HasPrefix(line, "IPAddressPool /edge "), strings.HasPrefix(line, "Namespace /belfry-system "), strings.HasPrefix(line, "APIService /v1beta1.belfry.dev "):
		case strings.HasPrefix(line, "ConfigMap belfry-system/kube-root-ca.crt"), strings.HasPrefix(line, "ServiceAccount belfry-system/default "):
			// Kubernetes' own, of every namespace
		default:
			t.Errorf("left behind: %s", line)
		}
	}
	if crds != 7 {
		t.Errorf("%d CRDs are left, want 7: %q", crds, left)
	}

	// The next release of that name takes them over.
	run(strings.SplitAfterN(documented(t, "## With Helm", 0), "\n", 3)[2])
	if now := get("{.metadata.uid}", "pool", "edge"); now != uid {
		t.Errorf("the pool did not live to see the next release: %s, was %s", now, uid)
	}
}

// Who began with kubectl can go on with Helm.
func TestHelmTakesOverWhatKubectlInstalled(t *testing.T) {
	l := installed(t)
	install := strings.SplitAfterN(documented(t, "## With Helm", 0), "\n", 3)[2]
	if _, err := shell(t, l, install); err == nil || !strings.Contains(err.Error(), "ownership") {
		t.Errorf("not asked to, it does: %v", err)
	}
	if _, err := shell(t, l, strings.TrimSuffix(install, "\n")+" --take-ownership --force-conflicts"); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		if cmd, err := l.Cluster.Shell(context.Background(), "helm uninstall belfry --namespace belfry-system"); err != nil || cmd.Run() != nil {
			t.Errorf("helm uninstall (%v)", err)
		}
	})
	if out, err := l.Cluster.Kubectl(t.Context(), "get", "daemonset", "belfry-speaker", "--namespace=belfry-system", `--output=jsonpath={.metadata.annotations.meta\.helm\.sh/release-name}`); err != nil || out != "belfry" {
		t.Errorf("the DaemonSet belongs to release %q, %v", out, err)
	}
}
