// CUDA devices without a GPU, for tests: tensors say `cuda:N`, lie in the memory of the CPU, and are computed by it.
//
// Every operator that reaches the dispatch key CUDA gets views of the same memory as CPU tensors, and its results become
// CUDA tensors again, so that autograd, serialization and views work on real tensors. What a GPU would refuse is refused
// (operands on different devices), and what is expensive on a GPU is counted: launches, synchronizations, copies from
// memory that is not pinned, allocations, arithmetic in float64. Half precision is computed as on a GPU: sums of
// products in float32, results rounded. CUDA graphs are recorded operator by operator, and replayed on the same memory.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

constexpr auto GPU = c10::DeviceType::CUDA;
constexpr int MAX_DEVICES = 16;

// ---------------------------------------------------------------------------------------------------------------------
// State

struct DeviceMemory { std::atomic<int64_t> used{0}, peak{0}; };

int num_devices = 1;
int64_t memory_bytes = int64_t(16) << 30;
bool share_generator = false;  // random numbers of the devices come from the generator of the CPU
std::atomic<int> sync_mode{0};  // 1: count, 2: refuse
DeviceMemory memory[MAX_DEVICES];
thread_local c10::DeviceIndex current_device = 0;

// In the order of `COUNTERS` in backend.py.
enum Counter { LAUNCHES, SYNCHRONIZATIONS, PAGEABLE_COPIES, PINNED_COPIES, TO_HOST, ALLOCATIONS, FLOAT64, NUM_COUNTERS };
std::atomic<int64_t> counters[NUM_COUNTERS];
std::mutex names_mutex;
std::map<std::string, int64_t> sync_names;

bool capturing = false;  // into `recording`
std::vector<std::function<void()>>* recording = nullptr;
// What has been written to during a capture, with its bytes before: a capture computes nothing on a GPU.
std::map<void*, std::pair<c10::Storage, std::string>> before_capture;

void keep_for_capture(const c10::Storage& storage) {
    if (!capturing || !storage.data() || before_capture.count(storage.mutable_data())) return;
    before_capture.emplace(storage.mutable_data(),
                           std::make_pair(storage, std::string(static_cast<const char*>(storage.data()), storage.nbytes())));
}

void count(Counter counter) { ++counters[counter]; }

void synchronize(const std::string& what) {
    count(SYNCHRONIZATIONS);
    {
        std::lock_guard<std::mutex> lock(names_mutex);
        ++sync_names[what];
    }
    TORCH_CHECK(!capturing, "CUDA error: operation not permitted when stream is capturing (", what, ")");
    TORCH_CHECK(sync_mode != 2, "called a synchronizing CUDA operation (", what, ")");
}

int device_index(c10::Device device) { return device.has_index() ? device.index() : current_device; }

void check_device(int index) {
    TORCH_CHECK(0 <= index && index < num_devices, "CUDA error: invalid device ordinal ", index, " of ", num_devices);
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory

struct Block {  // what a CUDA storage owns
    void* data;
    c10::Storage host;  // whose memory it is, if it was not allocated here
    int64_t bytes;
    int device;
    void* graph = capturing ? recording : nullptr;  // that was captured when it was allocated
};

std::mutex graphs_mutex;
std::map<void*, std::vector<Block*>> kept;  // graph → blocks that were released, but that its replays write to

void charge(int device, int64_t bytes) {
    count(ALLOCATIONS);
    if (capturing) {
        std::lock_guard<std::mutex> lock(graphs_mutex);
        kept[recording];
    }
    const int64_t rounded = (bytes + 511) / 512 * 512, used = memory[device].used += rounded;
    if (used > memory_bytes) {
        memory[device].used -= rounded;
        TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", bytes, " bytes. GPU ", device,
                         " has a total capacity of ", memory_bytes, " bytes.");
    }
    int64_t peak = memory[device].peak;
    while (peak < used && !memory[device].peak.compare_exchange_weak(peak, used)) {}
}

void free_block(void* context) {
    auto* block = static_cast<Block*>(context);
    if (block->graph) {
        std::lock_guard<std::mutex> lock(graphs_mutex);
        const auto found = kept.find(block->graph);
        if (found != kept.end()) return found->second.push_back(block);
    }
    memory[block->device].used -= (block->bytes + 511) / 512 * 512;
    if (!block->host) std::free(block->data);
    delete block;
}

void* aligned(size_t bytes) {
    void* data = nullptr;
    TORCH_CHECK(bytes == 0 || posix_memalign(&data, 512, bytes) == 0, "out of memory");
    return data;
}

struct DeviceAllocator final : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override {
        const int device = current_device;
        charge(device, bytes);
        void* data = aligned(bytes);
        return {data, new Block{data, {}, int64_t(bytes), device}, free_block, c10::Device(GPU, device)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
    void copy_data(void* destination, const void* source, size_t bytes) const override {
        std::memcpy(destination, source, bytes);
    }
};
DeviceAllocator device_allocator;

std::mutex pinned_mutex;
std::map<const char*, size_t> pinned;  // address → bytes

bool is_pinned(const void* pointer) {
    std::lock_guard<std::mutex> lock(pinned_mutex);
    auto after = pinned.upper_bound(static_cast<const char*>(pointer));
    return after != pinned.begin() && (--after, static_cast<const char*>(pointer) < after->first + after->second);
}

void free_pinned(void* data) {
    {
        std::lock_guard<std::mutex> lock(pinned_mutex);
        pinned.erase(static_cast<const char*>(data));
    }
    std::free(data);
}

struct PinnedAllocator final : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override {
        void* data = aligned(std::max<size_t>(bytes, 1));
        std::lock_guard<std::mutex> lock(pinned_mutex);
        pinned[static_cast<const char*>(data)] = std::max<size_t>(bytes, 1);
        return {data, data, free_pinned, c10::Device(c10::DeviceType::CPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return free_pinned; }
    void copy_data(void* destination, const void* source, size_t bytes) const override {
        std::memcpy(destination, source, bytes);
    }
};
PinnedAllocator pinned_allocator;

// ---------------------------------------------------------------------------------------------------------------------
// Random numbers

struct DeviceGenerator final : c10::GeneratorImpl {
    at::Generator host;

    DeviceGenerator(int device, at::Generator generator)
        : GeneratorImpl(c10::Device(GPU, device), c10::DispatchKeySet(c10::DispatchKey::CUDA)), host(generator) {}
    void set_current_seed(uint64_t seed) override { if (!share_generator) host.set_current_seed(seed); }
    void set_offset(uint64_t offset) override { TORCH_CHECK(offset == 0, "no offsets here"); }
    uint64_t get_offset() const override { return 0; }
    uint64_t current_seed() const override { return host.current_seed(); }
    uint64_t seed() override { return host.seed(); }
    void set_state(const c10::TensorImpl& state) override { host.unsafeGetGeneratorImpl()->set_state(state); }
    c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return host.unsafeGetGeneratorImpl()->get_state(); }
    DeviceGenerator* clone_impl() const override { return new DeviceGenerator(device().index(), host.clone()); }
};

at::Generator& default_generator(int device) {
    static std::vector<at::Generator> generators = [] {
        std::vector<at::Generator> all;
        for (int i = 0; i < MAX_DEVICES; ++i) {
            auto host = share_generator ? at::detail::getDefaultCPUGenerator() : at::detail::createCPUGenerator();
            all.push_back(at::make_generator<DeviceGenerator>(i, host));
        }
        return all;
    }();
    return generators[device];
}

bool give_default_generators = false;

// ---------------------------------------------------------------------------------------------------------------------
// What PyTorch asks its backend

struct Guard final : c10::impl::DeviceGuardImplInterface {
    c10::DeviceType type() const override { return GPU; }
    c10::Device getDevice() const override { return c10::Device(GPU, current_device); }
    void setDevice(c10::Device device) const override {
        check_device(device_index(device));
        current_device = c10::DeviceIndex(device_index(device));
    }
    void uncheckedSetDevice(c10::Device device) const noexcept override {
        current_device = c10::DeviceIndex(device_index(device));
    }
    c10::Device exchangeDevice(c10::Device device) const override {
        const auto before = getDevice();
        setDevice(device);
        return before;
    }
    c10::Stream getStream(c10::Device device) const noexcept override {
        return c10::Stream(c10::Stream::DEFAULT, c10::Device(GPU, c10::DeviceIndex(device_index(device))));
    }
    c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
    c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
    c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
    c10::DeviceIndex deviceCount() const noexcept override { return c10::DeviceIndex(num_devices); }
    void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
    void block(void*, const c10::Stream&) const override {}
    bool queryEvent(void*) const override { return true; }
    bool queryStream(const c10::Stream&) const override { return true; }
    void synchronizeStream(const c10::Stream&) const override { synchronize("stream"); }
    void synchronizeEvent(void*) const override { synchronize("event"); }
    void synchronizeDevice(const c10::DeviceIndex) const override { synchronize("device"); }
};

}  // namespace

namespace at {

struct CUDAHooks final : CUDAHooksInterface {
    CUDAHooks(CUDAHooksArgs) {}
    void init() const override {}
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasCUDA() const override { return true; }
    bool hasPrimaryContext(DeviceIndex) const override { return true; }
    DeviceIndex current_device() const override { return ::current_device; }
    DeviceIndex deviceCount() const override { return DeviceIndex(num_devices); }
    DeviceIndex getCurrentDevice() const override { return ::current_device; }
    void setCurrentDevice(DeviceIndex device) const override { Guard().setDevice(c10::Device(GPU, device)); }
    DeviceIndex exchangeDevice(DeviceIndex device) const override { return Guard().exchangeDevice(c10::Device(GPU, device)).index(); }
    DeviceIndex maybeExchangeDevice(DeviceIndex device) const override { return device < 0 ? -1 : exchangeDevice(device); }
    int getNumGPUs() const override { return num_devices; }
    bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
    Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
    Allocator* getCUDADeviceAllocator() const override { return &device_allocator; }
    Device getDeviceFromPtr(void*) const override { return c10::Device(GPU, ::current_device); }
    void deviceSynchronize(DeviceIndex) const override { synchronize("device"); }
    const Generator& getDefaultGenerator(DeviceIndex device) const override {
        return default_generator(device < 0 ? ::current_device : device);
    }
    Generator getNewGenerator(DeviceIndex device) const override {
        const int index = device < 0 ? ::current_device : device;
        check_device(index);
        if (give_default_generators) return default_generator(index);
        return make_generator<DeviceGenerator>(index, detail::createCPUGenerator());
    }
};

REGISTER_CUDA_HOOKS(CUDAHooks);

}  // namespace at

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Calls of operators

// Sums of products: half precision is accumulated in float32.
const std::set<std::string> PRODUCTS = {
    "aten::convolution", "aten::convolution_backward", "aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm",
    "aten::addmv", "aten::mv", "aten::dot", "aten::addbmm"};
// Registered as one operator of the GPU, though PyTorch would take them apart or look for their parts.
const std::set<std::string> WHOLE = {"aten::copy_", "aten::convolution", "aten::convolution_backward"};
const std::set<std::string> SYNCHRONIZING = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique", "aten::_unique2",
    "aten::unique_dim", "aten::unique_consecutive", "aten::equal", "aten::bincount", "aten::_linalg_eigh",
    "aten::_linalg_svd", "aten::linalg_cholesky_ex", "aten::linalg_lu_factor_ex", "aten::_linalg_solve_ex",
    "aten::linalg_inv_ex", "aten::histc", "aten::multinomial"};
const std::set<std::string> ALLOCATING = {"aten::empty", "aten::empty_strided", "aten::resize_", "aten::set_",
                                          "aten::record_stream"};
const std::set<std::string> TAKES_CPU_INDICES = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"};

class Call {
  public:
    Call(const c10::OperatorHandle& op, torch::jit::Stack& stack) : op_(op), schema_(op.schema()), stack_(stack) {
        name_ = schema_.name();
        first_ = stack.size() - schema_.arguments().size();
    }

    void run() {
        if (name_ == "aten::copy_") return copy();
        find_device();
        const bool is_view = returns_view(), is_empty = name_ == "aten::empty" || name_ == "aten::empty_strided";
        if (is_empty) check_fits();
        if (!is_view) account();
        const bool widen = PRODUCTS.count(name_) > 0;
        std::vector<c10::IValue> inputs(stack_.begin() + first_, stack_.end());
        compute(widen);
        if (is_empty && stack_.back().toTensor().numel() > 0)  // NaN: the memory of a GPU is not zero
            std::memset(stack_.back().toTensor().mutable_data_ptr(), 0xff, stack_.back().toTensor().storage().nbytes());
        if (capturing && is_empty) hold(stack_.back());
        if (capturing && !is_view && !ALLOCATING.count(name_)) record(std::move(inputs));
    }

  private:
    struct Alias { at::Tensor device, host, original_host; bool written; };

    const c10::OperatorHandle& op_;
    const c10::FunctionSchema& schema_;
    torch::jit::Stack& stack_;
    std::string name_;
    size_t first_;
    int device_ = -1;
    std::vector<Alias> aliases_;
    std::unordered_map<c10::StorageImpl*, c10::Storage> storages_;  // of the CPU → CUDA

    template <class F> void for_each_tensor(const c10::IValue& value, F function) const {
        if (value.isTensor()) {
            if (value.toTensor().defined()) function(value.toTensor());
        } else if (value.isTensorList()) {
            for (const at::Tensor tensor : value.toTensorList()) if (tensor.defined()) function(tensor);
        } else if (value.isList()) {
            for (const auto& item : value.toListRef()) for_each_tensor(item, function);
        }
    }

    // The device of the call: all tensors are on it, except for numbers on the CPU.
    void find_device() {
        bool on_cpu = false;
        for (size_t i = first_; i < stack_.size(); ++i) {
            if (stack_[i].isDevice() && stack_[i].toDevice().type() == GPU && device_ < 0)
                device_ = device_index(stack_[i].toDevice());
            const bool free_choice = TAKES_CPU_INDICES.count(name_) && i == first_ + 1;
            for_each_tensor(stack_[i], [&](const at::Tensor& tensor) {
                if (tensor.device().type() != GPU) {
                    on_cpu = on_cpu || (tensor.dim() > 0 && !free_choice);
                    return;
                }
                const int index = tensor.device().index();
                TORCH_CHECK(device_ < 0 || device_ == index, "Expected all tensors to be on the same device, but found ",
                            "at least two devices, cuda:", device_, " and cuda:", index, "! (", name_, ")");
                device_ = index;
            });
        }
        if (device_ < 0) device_ = current_device;
        check_device(device_);
        TORCH_CHECK(!on_cpu, "Expected all tensors to be on the same device, but found at least two devices, cuda:",
                    device_, " and cpu! (", name_, ")");
    }

    void check_fits() const {
        double numbers = 1;
        for (const int64_t size : stack_[first_].toIntVector()) numbers *= double(size);
        TORCH_CHECK_WITH(OutOfMemoryError, numbers + memory[device_].used <= memory_bytes, "CUDA out of memory. ",
                         "Tried to allocate ", numbers, " numbers of at least one byte each.");
    }

    bool returns_view() const {
        for (const auto& result : schema_.returns())
            if (result.alias_info() && !result.alias_info()->isWrite()) return true;
        return false;
    }

    void account() {
        if (ALLOCATING.count(name_)) return;
        bool masks = false, is_double = false, any = false;
        for (size_t i = first_; i < stack_.size(); ++i)
            for_each_tensor(stack_[i], [&](const at::Tensor& tensor) {
                any = any || tensor.numel() > 0;
                masks = masks || (i == first_ + 1 && (tensor.dtype() == at::kBool || tensor.dtype() == at::kByte));
                is_double = is_double || (tensor.device().type() == GPU && tensor.dtype() == at::kDouble);
            });
        if (is_double) count(FLOAT64);
        const bool finds_mask = masks && name_ == "aten::_index_put_impl_";  // others call nonzero
        if (SYNCHRONIZING.count(name_) || finds_mask) synchronize(name_);
        count(LAUNCHES);
    }

    c10::Storage host_storage(const c10::Storage& storage) {
        auto* owner = new c10::Storage(storage);
        c10::DataPtr data(storage.mutable_data(), owner, [](void* p) { delete static_cast<c10::Storage*>(p); },
                          c10::Device(c10::DeviceType::CPU));
        c10::Storage host(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data), c10::GetAllocator(c10::DeviceType::CPU), true);
        storages_.emplace(host.unsafeGetStorageImpl(), storage);
        return host;
    }

    at::Tensor on_host(const at::Tensor& tensor, bool written, bool widen) {
        if (!tensor.defined() || tensor.device().type() != GPU) return tensor;
        if (written) keep_for_capture(tensor.storage());
        for (auto& alias : aliases_)
            if (alias.device.unsafeGetTensorImpl() == tensor.unsafeGetTensorImpl()) {
                alias.written = alias.written || written;
                return alias.host;
            }
        auto host = at::detail::make_tensor<c10::TensorImpl>(
            host_storage(tensor.storage()), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
        host.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
        const bool narrow = tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
        aliases_.push_back({tensor, widen && narrow ? host.to(at::kFloat) : host, host, written});
        return aliases_.back().host;
    }

    c10::IValue on_host(const c10::IValue& value, const c10::Argument& argument, bool widen) {
        const bool written = argument.alias_info() && argument.alias_info()->isWrite();
        if (value.isTensor()) return on_host(value.toTensor(), written, widen);
        if (value.isTensorList()) {
            c10::List<at::Tensor> list;
            for (const at::Tensor tensor : value.toTensorList()) list.push_back(on_host(tensor, written, widen));
            return list;
        }
        if (value.isList() && value.toList().elementType()->kind() == c10::TypeKind::OptionalType) {
            c10::List<std::optional<at::Tensor>> list;
            for (const c10::IValue item : value.toListRef())
                list.push_back(item.isTensor() ? std::optional<at::Tensor>(on_host(item.toTensor(), written, widen))
                                               : std::nullopt);
            return list;
        }
        if (value.isStorage() && value.toStorage().device().type() == GPU) return host_storage(value.toStorage());
        if (value.isDevice() && value.toDevice().type() == GPU) return c10::Device(c10::DeviceType::CPU);
        if (value.isGenerator()) {
            TORCH_CHECK(value.toGenerator().device().type() == GPU, "Expected a 'cuda' device type for generator but found ",
                        "'cpu' (", name_, ")");
            return static_cast<DeviceGenerator*>(value.toGenerator().unsafeGetGeneratorImpl())->host;
        }
        if (value.isNone() && argument.type()->str().find("Generator") != std::string::npos)
            return static_cast<DeviceGenerator*>(default_generator(device_).unsafeGetGeneratorImpl())->host;
        if (value.isBool() && argument.name() == "pin_memory") return false;
        return value;
    }

    void compute(bool widen) {
        at::AutoDispatchBelowADInplaceOrView guard;
        bool any_narrow = false;
        if (widen)
            for (size_t i = first_; i < stack_.size(); ++i)
                for_each_tensor(stack_[i], [&](const at::Tensor& t) {
                    any_narrow = any_narrow || t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16;
                    if (any_narrow) narrow_ = t.scalar_type();
                });
        for (size_t i = first_; i < stack_.size(); ++i)
            stack_[i] = on_host(stack_[i], schema_.arguments()[i - first_], any_narrow);
        op_.callBoxed(&stack_);
        for (auto& alias : aliases_) if (alias.written) update(alias);
        for (size_t i = stack_.size() - schema_.returns().size(); i < stack_.size(); ++i)
            stack_[i] = on_device(stack_[i], any_narrow);
    }
    at::ScalarType narrow_ = at::kHalf;

    // Give a tensor that has been written to the size and the memory that its alias has now.
    void update(Alias& alias) {
        if (alias.host.unsafeGetTensorImpl() != alias.original_host.unsafeGetTensorImpl())
            alias.original_host.copy_(alias.host);
        auto* impl = alias.device.unsafeGetTensorImpl();
        const auto& host = alias.original_host;
        auto known = storages_.find(host.storage().unsafeGetStorageImpl());
        if (known == storages_.end()) {
            impl->set_storage_keep_dtype(device_storage(host.storage()));
        } else if (known->second.unsafeGetStorageImpl() != impl->storage().unsafeGetStorageImpl()) {
            impl->set_storage_keep_dtype(known->second);
        } else if (host.storage().data() != impl->storage().data() || host.storage().nbytes() != impl->storage().nbytes()) {
            auto moved = device_storage(host.storage());  // resized: the storage has new memory
            auto* storage = impl->storage().unsafeGetStorageImpl();
            storage->set_nbytes(moved.nbytes());
            storage->set_data_ptr_noswap(std::move(moved.unsafeGetStorageImpl()->_mutable_data_ptr_no_checks()));
        }
        if (impl->sizes() != host.sizes() || impl->strides() != host.strides() || impl->storage_offset() != host.storage_offset())
            impl->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
    }

    c10::Storage device_storage(const c10::Storage& host) {
        auto& known = storages_[host.unsafeGetStorageImpl()];
        if (!known || known.data() != host.data()) {
            const int64_t bytes = host.nbytes();
            charge(device_, bytes);
            c10::DataPtr data(host.mutable_data(), new Block{host.mutable_data(), host, bytes, device_}, free_block,
                              c10::Device(GPU, c10::DeviceIndex(device_)));
            known = c10::Storage(c10::Storage::use_byte_size_t(), bytes, std::move(data), &device_allocator, true);
        }
        return known;
    }

    at::Tensor on_device(const at::Tensor& given, bool narrowed) {
        if (!given.defined()) return given;
        for (const auto& alias : aliases_)
            if (alias.host.unsafeGetTensorImpl() == given.unsafeGetTensorImpl()) return alias.device;
        if (given._is_zerotensor()) return on_device(at::zeros_like(given), narrowed);  // it has no memory
        const auto host = narrowed && given.scalar_type() == at::kFloat ? given.to(narrow_) : given;
        auto tensor = at::detail::make_tensor<c10::TensorImpl>(
            device_storage(host.storage()), c10::DispatchKeySet(c10::DispatchKey::CUDA), host.dtype());
        tensor.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
        tensor._set_neg(host.is_neg());
        return tensor;
    }

    c10::IValue on_device(const c10::IValue& value, bool narrowed) {
        if (value.isTensor()) return on_device(value.toTensor(), narrowed);
        if (value.isTensorList()) {
            c10::List<at::Tensor> list;
            for (const at::Tensor tensor : value.toTensorList()) list.push_back(on_device(tensor, narrowed));
            return list;
        }
        return value;
    }

    // Between devices and the CPU: (self, src, non_blocking).
    void copy() {
        const auto self = stack_[first_].toTensor(), source = stack_[first_ + 1].toTensor();
        const bool non_blocking = stack_[first_ + 2].toBool();
        const bool from_device = source.device().type() == GPU, to_device = self.device().type() == GPU;
        device_ = (to_device ? self : source).device().index();
        if (from_device && to_device) {
            count(LAUNCHES);
        } else if (to_device) {
            const bool from_pinned = is_pinned(source.storage().data());
            count(from_pinned ? PINNED_COPIES : PAGEABLE_COPIES);
            TORCH_CHECK(!capturing || from_pinned, "CUDA error: operation not permitted when stream is capturing (copy)");
            if (!non_blocking || !from_pinned) synchronize("copy to the device");
        } else {
            count(TO_HOST);
            if (!non_blocking || !is_pinned(self.storage().data())) synchronize("copy to the host");
        }
        std::vector<c10::IValue> inputs(stack_.begin() + first_, stack_.end());
        at::AutoDispatchBelowADInplaceOrView guard;
        on_host(self, true, false).copy_(on_host(source, false, false));
        stack_.resize(first_);
        stack_.emplace_back(self);
        if (capturing) record(std::move(inputs));
    }

    // Keep the memory that kernels may get from a graph until the graph is released.
    static void hold(const c10::IValue& output) { recording->push_back([output] {}); }

    // Repeat this call at each replay, on the same memory.
    void record(std::vector<c10::IValue> inputs) {
        std::vector<c10::IValue> outputs(stack_.end() - schema_.returns().size(), stack_.end());
        recording->push_back([op = op_, inputs, outputs] {
            torch::jit::Stack stack(inputs.begin(), inputs.end());
            Call(op, stack).run();
            at::AutoDispatchBelowADInplaceOrView guard;
            for (size_t i = 0; i < outputs.size(); ++i) restore(stack[stack.size() - outputs.size() + i], outputs[i]);
        });
    }

    static void restore(const c10::IValue& result, const c10::IValue& output) {
        if (output.isTensor() && output.toTensor().defined()) {
            const auto from = result.toTensor(), to = output.toTensor();
            if (from.data_ptr() != to.data_ptr()) std::memcpy(to.data_ptr(), from.data_ptr(), from.nbytes());  // both are dense
        } else if (output.isTensorList()) {
            for (size_t i = 0; i < output.toTensorList().size(); ++i)
                restore(result.toTensorList().get(i), output.toTensorList().get(i));
        }
    }
};

void call(const c10::OperatorHandle& op, torch::jit::Stack* stack) { Call(op, *stack).run(); }

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&call>()); }

std::vector<c10::RegistrationHandleRAII>& registrations() {
    static auto* handles = new std::vector<c10::RegistrationHandleRAII>();
    return *handles;
}

struct Silence final : c10::WarningHandler { void process(const c10::Warning&) override {} };

void register_whole_operators() {
    Silence silence;  // PyTorch warns that kernels are replaced.
    c10::WarningUtils::WarningHandlerGuard guard(&silence);
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const auto& name : dispatcher.getAllOpNames()) {
        const bool fused = name.name.rfind("aten::_foreach_", 0) == 0 || name.name.rfind("aten::_fused_adam", 0) == 0;
        if ((fused || WHOLE.count(name.name)) && dispatcher.findOp(name) && name.overload_name.find("out") == std::string::npos)
            registrations().push_back(dispatcher.registerImpl(
                name, c10::DispatchKey::CUDA, c10::KernelFunction::makeFromBoxedFunction<&call>(), std::nullopt, nullptr,
                "rehearsal"));
    }
}

C10_REGISTER_GUARD_IMPL(CUDA, Guard);

std::vector<at::Tensor> random_states;  // of the devices, when a capture began

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Interface for Python

extern "C" {

void rehearsal_start(int devices, long long bytes, int shared_generator) {
    num_devices = devices;
    memory_bytes = bytes;
    share_generator = shared_generator;
    c10::SetAllocator(GPU, &device_allocator);
    register_whole_operators();
}

long long rehearsal_count(int counter) { return counters[counter]; }
void rehearsal_synchronize(const char* what) { synchronize(what); }
int rehearsal_sync_mode(int mode) { return mode < 0 ? int(sync_mode) : sync_mode.exchange(mode); }
long long rehearsal_used(int device) { return memory[device].used; }
long long rehearsal_peak(int device) { return memory[device].peak; }
void rehearsal_reset_peak(int device) { memory[device].peak = int64_t(memory[device].used); }
int rehearsal_device() { return current_device; }
void rehearsal_set_device(int device) { current_device = c10::DeviceIndex(device); }
void rehearsal_give_default_generators(int yes) { give_default_generators = yes; }

// "name count" lines of what has synchronized, as far as they fit.
void rehearsal_sync_names(char* text, int size) {
    std::string all;
    std::lock_guard<std::mutex> lock(names_mutex);
    for (const auto& [name, number] : sync_names) all += name + "\t" + std::to_string(number) + "\n";
    std::snprintf(text, size, "%s", all.c_str());
}

void* rehearsal_capture_begin() {
    recording = new std::vector<std::function<void()>>();
    capturing = true;
    random_states.clear();
    for (int i = 0; i < num_devices; ++i) random_states.push_back(default_generator(i).get_state());
    return recording;
}
void rehearsal_capture_end() {
    capturing = false;
    for (auto& [data, storage_and_bytes] : before_capture)
        std::memcpy(data, storage_and_bytes.second.data(), storage_and_bytes.second.size());
    before_capture.clear();
    for (int i = 0; i < num_devices; ++i) default_generator(i).set_state(random_states[i]);
}
int rehearsal_capturing() { return capturing; }
void rehearsal_replay(void* graph) {
    count(LAUNCHES);
    const int64_t launches = counters[LAUNCHES], allocations = counters[ALLOCATIONS];
    for (const auto& step : *static_cast<std::vector<std::function<void()>>*>(graph)) step();
    counters[LAUNCHES] = launches;  // A graph is one launch, and has its own memory.
    counters[ALLOCATIONS] = allocations;
}
long long rehearsal_graph_size(void* graph) { return static_cast<std::vector<std::function<void()>>*>(graph)->size(); }
void rehearsal_graph_free(void* graph) {
    delete static_cast<std::vector<std::function<void()>>*>(graph);
    std::vector<Block*> blocks;
    {
        std::lock_guard<std::mutex> lock(graphs_mutex);
        blocks.swap(kept[graph]);
        kept.erase(graph);
    }
    for (Block* block : blocks) free_block(block);
}

// Run an emulated kernel, now and at each replay.
void rehearsal_launch(void (*kernel)(long long, long long, const void*), long long blocks, long long threads,
                      const void* argument, int bytes) {
    static std::mutex one_at_a_time;  // kernels keep their blocks in static memory
    count(LAUNCHES);
    std::string copy(static_cast<const char*>(argument), bytes);
    auto step = [=] {
        std::lock_guard<std::mutex> lock(one_at_a_time);
        kernel(blocks, threads, copy.data());
    };
    step();
    if (capturing) recording->push_back(step);
}

}  // extern "C"
