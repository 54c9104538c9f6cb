package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// A machine is what the first process of a node is told (hack/lab/cmd/node).
type machine struct {
	Disk       string   `json:"disk"`
	Containerd []string `json:"containerd"`
	Kubelet    []string `json:"kubelet"`
	Socket     string   `json:"socket"`
	Images     []string `json:"images"`
}

// Images of the lab, as BuildImages names them.
const (
	// WebImage answers HTTP on port 8080 as the backends of the lab do.
	WebImage   = registry + "web:" + labTag
	pauseImage = registry + "pause:" + labTag

	registry = "ghcr.io/belfrylb/"
	labTag   = "lab"
)

const containerdSocket = "/run/containerd/containerd.sock"

// containerdConfig: only what a node of the lab needs is enabled, and nothing
// of it needs more than the node has.
const containerdConfig = `version = 2
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[1]q
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %[2]q
    conf_dir = %[3]q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = %[4]q
`

// cniConfig is a bridge with the node's own ranges behind it. Every other node
// has a route to them, so nothing is translated on the way.
const cniConfig = `{
  "cniVersion": "1.0.0",
  "name": "lab",
  "plugins": [{
    "type": "bridge",
    "bridge": %q,
    "isGateway": true,
    "hairpinMode": true,
    "ipam": {
      "type": "host-local",
      "dataDir": "/run/cni",
      "ranges": [[{"subnet": %q}], [{"subnet": %q}]],
      "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    }
  }]
}
`

// kubeletConfig differs from the default where the machine is not the
// kubelet's alone: the firewall, the disk's space and the kernel's settings are
// none of its business. A dead node is noticed sooner, for the tests' sake. No DNS runs in the cluster; Pods have its address
// all the same.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%[1]s
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %[2]q}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /%[3]s
failCgroupV1: false
enforceNodeAllocatable: []
evictionHard: {}
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
failSwapOn: false
resolvConf: ""
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
nodeLeaseDurationSeconds: 8
nodeStatusUpdateFrequency: 4s
volumePluginDir: /var/lib/kubelet/volume-plugins
`

// cniDirs are where distributions put the CNI plugins.
var cniDirs = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}

func cniDir() (string, error) {
	for _, dir := range cniDirs {
		if _, err := os.Stat(filepath.Join(dir, "host-local")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the lab needs the CNI plugins, which are in none of %v (lab deps)", cniDirs)
}

// UnableContainers says why nodes cannot run containers here; nil means they
// can.
func UnableContainers() error {
	if why := Unable(); why != nil {
		return why
	}
	for _, tool := range []string{"containerd", "ctr", "runc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("the lab needs %s, which is not installed (lab deps)", tool)
		}
	}
	if _, err := cniDir(); err != nil {
		return err
	}
	if len(cgroupMounts()) == 0 {
		return errors.New("the lab needs cgroups under /sys/fs/cgroup to run containers, and there are none")
	}
	return nil
}

// unableTo says why a run with these options is impossible here.
func unableTo(opts Options) error {
	if opts.Containers {
		return UnableContainers()
	}
	return Unable()
}

// disk is the directory of what a node keeps when its power goes.
func (m *Machines) disk(node string) string { return m.run.data("disk-" + node) }

// MachineOn is the name of the process that is all of a node but its kernel
// and its kube-proxy.
func MachineOn(node string) string { return "machine/" + node }

// cgroup is the name of a node's control group.
func (m *Machines) cgroup(node string) string { return m.run.name + "-" + node }

// buildKubelets builds what nodes are made of, with the lab's own images.
func (m *Machines) buildKubelets(ctx context.Context) error {
	if _, err := m.tree.build(ctx, "node"); err != nil {
		return err
	}
	return BuildImages(ctx, m.run.data(), labTag, "pause", "web")
}

// BuildImages builds images of this tree for this machine, and writes each as
// NAME.tar into a directory. The tag is the product's version when it is empty.
func BuildImages(ctx context.Context, dir, tag string, names ...string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	args := append([]string{"run", ".", "--output=" + dir, "--platforms=linux/" + runtime.GOARCH, "--version=" + tag}, names...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(root, "hack", "image")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build images %v: %w\n%s", names, err, out)
	}
	return nil
}

// startKubelets starts all nodes.
func (m *Machines) startKubelets(ctx context.Context) error {
	init, err := m.tree.build(ctx, "node")
	if err != nil {
		return err
	}
	images := slices.Clone(m.run.options.Images)
	for _, name := range []string{"pause", "web"} {
		images = append(images, m.run.data(name+".tar"))
	}
	// In place of runc; it becomes runc (hack/lab/cmd/node).
	if err := os.Symlink(init, filepath.Join(filepath.Dir(init), "runc")); err != nil {
		return err
	}
	for _, node := range m.network.Nodes() {
		if err := m.startKubelet(node, init, images); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machines) startKubelet(node, init string, images []string) error {
	plugins, err := cniDir()
	if err != nil {
		return err
	}
	disk, name := m.disk(node), "kubelet-"+node
	v4, v6 := podPrefixes(node)
	files := map[string]string{
		"containerd.toml":     fmt.Sprintf(containerdConfig, pauseImage, plugins, filepath.Join(disk, "cni"), filepath.Join(filepath.Dir(init), "runc")),
		"cni/10-lab.conflist": fmt.Sprintf(cniConfig, podNIC, v4, v6),
		"kubelet.yaml":        fmt.Sprintf(kubeletConfig, containerdSocket, m.cluster.pki("ca.crt"), m.cgroup(node)),
	}
	for file, text := range files {
		file = filepath.Join(disk, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := makeCgroup(m.cgroup(node)); err != nil {
		return err
	}
	a := addressesOf(node)
	told, err := json.MarshalIndent(machine{
		Disk:       disk,
		Socket:     containerdSocket,
		Containerd: []string{"containerd", "--config=" + filepath.Join(disk, "containerd.toml"), "--log-level=warn"},
		Kubelet: []string{
			m.run.programs["kubelet"], "--config=" + filepath.Join(disk, "kubelet.yaml"), "--kubeconfig=" + m.cluster.kubeconfig(name),
			"--hostname-override=" + node, fmt.Sprintf("--node-ip=%s,%s", a.v4, a.v6),
		},
		Images: images,
	}, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(disk, "machine.json")
	if err := os.WriteFile(file, told, 0o644); err != nil {
		return err
	}
	_, err = m.processes.spawnMachine(MachineOn(node), node, init, file)
	return err
}

// awaitNodes returns when every node's kubelet has registered it and says that
// it is Ready.
func (m *Machines) awaitNodes(ctx context.Context) error {
	cs, err := kubernetes.NewForConfig(m.cluster.AdminConfig())
	if err != nil {
		return err
	}
	for _, name := range m.network.Nodes() {
		if err := await(ctx, "wait for node "+name+" to be Ready", func() error {
			node, err := cs.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return m.processes.firstDead(err)
			}
			for _, c := range node.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
					return nil
				}
			}
			return m.processes.firstDead(fmt.Errorf("its conditions are %v", node.Status.Conditions))
		}); err != nil {
			return err
		}
	}
	return nil
}

const cgroupRoot = "/sys/fs/cgroup"

// cgroupMounts are the hierarchies in which a container wants a group: the one
// of version 2, or those of the controllers of version 1.
func cgroupMounts() []string {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{cgroupRoot}
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil
	}
	var mounts []string
	for _, e := range entries {
		dir := filepath.Join(cgroupRoot, e.Name())
		// One of several names of a hierarchy is a link to another.
		if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
			continue
		}
		if err := unix.Statfs(dir, &st); err == nil && (st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC) {
			mounts = append(mounts, dir)
		}
	}
	return mounts
}

// makeCgroup makes a group of that name at the top of every hierarchy.
func makeCgroup(name string) error {
	for _, mount := range cgroupMounts() {
		dir := filepath.Join(mount, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		// A group of version 1 has no processors and no memory until it is told.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if mount == cgroupRoot {
				continue
			}
			b, err := os.ReadFile(filepath.Join(mount, file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, file), b, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroups removes the run's groups and all below them. Their processes
// have ended; the kernel may need a moment to see it.
func (m *Machines) removeCgroups(ctx context.Context) error {
	return await(ctx, "remove control groups", func() error {
		var errs []error
		for _, mount := range cgroupMounts() {
			tops, err := filepath.Glob(filepath.Join(mount, m.run.name+"-*"))
			errs = append(errs, err)
			for _, top := range tops {
				var dirs []string
				errs = append(errs, filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
					if err == nil && e.IsDir() {
						dirs = append(dirs, path)
					}
					return err
				}))
				for _, dir := range slices.Backward(dirs) { // the innermost first
					errs = append(errs, syscall.Rmdir(dir))
				}
			}
		}
		return errors.Join(errs...)
	})
}
