// A client of CNI's own library, as container runtimes are: one verb of a network list.
//
//	libcni add|check|del|cached CONFLIST NETNS CONTAINER INTERFACE [CAPABILITIES [KEY=VALUE ...]]
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	list, err := libcni.ConfListFromFile(args[1])
	if err != nil {
		return err
	}
	path := filepath.SplitList(os.Getenv("CNI_PATH"))
	client := libcni.NewCNIConfigWithCacheDir(path, os.Getenv("CACHE_DIR"), nil)
	pod := &libcni.RuntimeConf{NetNS: args[2], ContainerID: args[3], IfName: args[4]}
	if len(args) > 5 {
		if err := json.Unmarshal([]byte(args[5]), &pod.CapabilityArgs); err != nil {
			return err
		}
		for _, pair := range args[6:] {
			key, value, _ := strings.Cut(pair, "=")
			pod.Args = append(pod.Args, [2]string{key, value})
		}
	}
	ctx := context.Background()
	switch args[0] {
	case "add":
		result, err := client.AddNetworkList(ctx, list, pod)
		if err != nil {
			return err
		}
		return result.Print()
	case "check":
		return client.CheckNetworkList(ctx, list, pod)
	case "del":
		return client.DelNetworkList(ctx, list, pod)
	case "cached":
		result, err := client.GetNetworkListCachedResult(list, pod)
		if err != nil || result == nil {
			return err
		}
		return result.Print()
	}
	return fmt.Errorf("no verb: %s", args[0])
}
