/* Two GPUs as NVIDIA's library describes them; the second is a MIG slice, without a utilisation. */

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilisation_t;

enum { SUCCESS = 0, NOT_SUPPORTED = 3 };

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return SUCCESS; }
const char *nvmlErrorString(int code) { return code == NOT_SUPPORTED ? "Not Supported" : "?"; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device)
{
    static int gpus[2];
    *device = &gpus[index];
    *(int *)*device = (int)index;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory)
{
    unsigned long long gibibytes = *(int *)device ? 20 : 80;
    memory->total = gibibytes << 30;
    memory->used = 3ull << 30;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, utilisation_t *rates)
{
    if (*(int *)device)
        return NOT_SUPPORTED;
    rates->gpu = 75;
    rates->memory = 10;
    return SUCCESS;
}
