package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Namespace is where the product is installed.
const Namespace = "belfry-system"

// labPrograms are this tree's programs that are parts of the lab.
var labPrograms = []string{"lab", "node"}

// buildOwn builds a program of this tree and returns its path in the run's own
// directory, so that a later build does not change what a restart starts. name
// is "controller", "speaker" or one of labPrograms.
func (l *Lab) buildOwn(ctx context.Context, name string) (string, error) {
	ofLab := slices.Contains(labPrograms, name)
	dest := filepath.Join(l.Dir, "bin", name)
	if !ofLab {
		dest = filepath.Join(l.Dir, "bin", "belfry-"+name)
	}
	if _, err := os.Stat(dest); err == nil {
		return dest, nil
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	// The flags are those of go run and go test, so that packages are compiled
	// once for all of them.
	pkg, args := "./cmd/"+name, []string{"install", "-tags=grpcnotrace"} // as in a release
	if ofLab {
		pkg = "./hack/lab/cmd/" + name
	} else if l.state.Options.Race {
		args = append(args, "-race")
	}
	// go install leaves a program alone that is up to date; go build -o links it
	// anew each time. One place per tree and flags, then.
	key := sha256.Sum256([]byte(root + strings.Join(args, " ")))
	bin := filepath.Join(cache, "tree-"+hex.EncodeToString(key[:6]))
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, bin+".lock", func() { l.say("another run is building this tree, waiting") })
	if err != nil {
		return "", err
	}
	defer unlock()
	begun := time.Now()
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -buildvcs=false"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	l.say("built %s in %s", pkg, time.Since(begun).Round(100*time.Millisecond))
	if err := os.Link(filepath.Join(bin, name), dest); err == nil || errors.Is(err, fs.ErrExist) {
		return dest, nil
	}
	// Another file system: copy.
	b, err := os.ReadFile(filepath.Join(bin, name))
	if err != nil {
		return "", err
	}
	return dest, os.WriteFile(dest, b, 0o755)
}

// Install installs what the product needs in the cluster: the namespace, the
// CRDs and the RBAC of manifests/. The programs themselves run as processes of
// the lab, not as Pods.
func (l *Lab) Install(ctx context.Context) error {
	root, err := Root()
	if err != nil {
		return err
	}
	l.say("installing CRDs and RBAC from manifests/")
	for _, path := range []string{"base/namespace.yaml", "base/rbac.yaml", "crds"} {
		path = filepath.Join(root, "manifests", path)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		flag := "-f"
		if _, err := os.Stat(filepath.Join(path, "kustomization.yaml")); err == nil {
			flag = "-k"
		}
		if _, err := l.Kubectl(ctx, "apply", flag, path); err != nil {
			return err
		}
	}
	_, err = l.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
	return err
}

// Ports of the metrics by HTTPS, as in manifests/.
const (
	SecureControllerMetrics = 7883
	SecureSpeakerMetrics    = 7873
)

// confined is a command line that runs a program as its container would: with
// these capabilities, no other, and no way to get one.
func confined(program string, capabilities ...string) []string {
	set := "-all"
	for _, c := range capabilities {
		set += ",+" + c
	}
	return []string{"/usr/bin/setpriv", "--bounding-set=" + set, "--inh-caps=-all", "--no-new-privs", "--", program}
}

// StartController starts a replica of the controller on the control plane, as
// its ServiceAccount. Replicas are numbered from 0 and differ in their identity
// and ports.
func (l *Lab) StartController(ctx context.Context, replica int, flags ...string) (*Process, error) {
	program, err := l.buildOwn(ctx, "controller")
	if err != nil {
		return nil, err
	}
	kubeconfig, err := l.KubeconfigFor(ctx, Namespace, "belfry-controller")
	if err != nil {
		return nil, err
	}
	name := "controller/" + strconv.Itoa(replica)
	l.say("starting %s", name)
	return l.spawn(name, ControlPlane, append(append(confined(program),
		"--kubeconfig="+kubeconfig,
		"--namespace="+Namespace,
		"--identity="+name,
		fmt.Sprintf("--health-address=127.0.0.1:%d", 7881+10*replica),
		fmt.Sprintf("--metrics-address=127.0.0.1:%d", 7882+10*replica),
		fmt.Sprintf("--secure-metrics-address=127.0.0.1:%d", SecureControllerMetrics+10*replica),
	), flags...)...)
}

// StartSpeaker starts the speaker on a node, as its ServiceAccount.
func (l *Lab) StartSpeaker(ctx context.Context, node string, flags ...string) (*Process, error) {
	return l.startSpeaker(ctx, node, flags, func(program string) []string { return confined(program, "net_raw") })
}

// StartPowerlessSpeaker starts the speaker on a node as overlays/bgp does: as an
// ordinary user without any capability.
func (l *Lab) StartPowerlessSpeaker(ctx context.Context, node string, flags ...string) (*Process, error) {
	return l.startSpeaker(ctx, node, flags, func(program string) []string {
		as := fmt.Sprintf("--reuid=%[1]d --regid=%[1]d --clear-groups", nobody)
		return slices.Insert(confined(program), 1, strings.Fields(as)...)
	})
}

// nobody is the user of the image.
const nobody = 65532

func (l *Lab) startSpeaker(ctx context.Context, node string, flags []string, confine func(program string) []string) (*Process, error) {
	program, err := l.buildOwn(ctx, "speaker")
	if err != nil {
		return nil, err
	}
	kubeconfig, err := l.KubeconfigFor(ctx, Namespace, "belfry-speaker")
	if err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(kubeconfig, -1, nobody); err != nil {
			return nil, err
		}
		if err := os.Chmod(kubeconfig, 0o640); err != nil {
			return nil, err
		}
	}
	l.say("starting the speaker on %s", node)
	return l.spawn(SpeakerOn(node), node, append(append(confine(program),
		"--kubeconfig="+kubeconfig,
		"--namespace="+Namespace,
		"--node-name="+node,
		fmt.Sprintf("--secure-metrics-address=:%d", SecureSpeakerMetrics),
	), flags...)...)
}

// SpeakerOn is the name of the process that is a node's speaker.
func SpeakerOn(node string) string { return "speaker/" + node }

// Deploy creates a Deployment of backends and waits until all are Ready. Each
// answers HTTP on port 80 with a line "node=... pod=... client=...".
func (l *Lab) Deploy(ctx context.Context, namespace, name string, replicas int) error {
	if _, err := l.Kubectl(ctx, "create", "deployment", name, "--namespace="+namespace, "--image=lab/web", "--port=80", "--replicas="+strconv.Itoa(replicas)); err != nil {
		return err
	}
	_, err := l.Kubectl(ctx, "rollout", "status", "deployment/"+name, "--namespace="+namespace, "--timeout=60s")
	return err
}

// Withdraw makes all Pods of a node unready, as the node lifecycle controller
// would some time after the node's death; the Pods go on serving.
func (l *Lab) Withdraw(ctx context.Context, node string) error {
	return l.annotatePods(ctx, node, AnnotationReady+"=false")
}

// Reinstate undoes Withdraw.
func (l *Lab) Reinstate(ctx context.Context, node string) error {
	return l.annotatePods(ctx, node, AnnotationReady+"-")
}

func (l *Lab) annotatePods(ctx context.Context, node, annotation string) error {
	_, err := l.Kubectl(ctx, "annotate", "pods", "--all-namespaces", "--field-selector=spec.nodeName="+node, "--overwrite", annotation)
	return err
}
